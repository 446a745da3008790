"""Sparse coding: the code of least cost under an L1 penalty, by ISTA and FISTA, and an encoder that learns it."""

import math
import numbers
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

_CHECK_EVERY = 10  # iterations between looks at the duality gap


def ista(X, dictionary, alpha, *, init=None, max_iter=1000, tol=1e-4):
    """Sparse codes by the iterative shrinkage-thresholding algorithm.

    For each sample x the code h minimises ``0.5 * ||x - h @ dictionary||^2 + alpha * ||h||_1``, the objective
    of `sklearn.decomposition.sparse_encode`. A step is a step of gradient descent on the squared error, of
    length 1 / L, followed by soft thresholding at alpha / L; L is the largest eigenvalue of
    ``dictionary @ dictionary.T``.

    Parameters
    ----------
    X : array-like, shape (n_samples, n_features)
        One sample a row.
    dictionary : array-like, shape (n_components, n_features)
        One atom a row, of any length.
    alpha : float
        Weight of the L1 penalty, at least 0. From ``abs(X @ dictionary.T).max()`` on, all codes are zero.
    init : array-like, shape (n_samples, n_components), optional
        Codes to start from; zero if not given.
    max_iter : int
        Steps at most.
    tol : float
        A sample is done when its duality gap is at most `tol` times its objective, so that its objective is
        within that fraction of the least possible. Where alpha is 0 there is no such bound, and it is done
        when ``abs(dictionary @ (x - h @ dictionary))`` is nowhere larger than `tol` times the largest
        ``abs(dictionary @ x)``. With 0, all the steps are made.

    Returns
    -------
    numpy.ndarray, shape (n_samples, n_components)
        float32 if X is, otherwise float64.

    Raises
    ------
    ValueError
        If an argument is not finite, has the wrong shape, or lies outside its range.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If samples are not done after `max_iter` steps.

    References
    ----------
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM
    J. Imaging Sci. 2:183, 2009: equation 1.4, and theorem 3.1 for its rate.
    """
    return _encode(X, dictionary, alpha, init, max_iter, tol, accelerate=False)


def fista(X, dictionary, alpha, *, init=None, max_iter=1000, tol=1e-4):
    """Sparse codes by the fast iterative shrinkage-thresholding algorithm.

    As `ista`, but each step starts from a point beyond the last code, in the direction in which it moved.

    Parameters
    ----------
    X, dictionary, alpha, init, max_iter, tol
        As for `ista`.

    Returns
    -------
    numpy.ndarray, shape (n_samples, n_components)
        float32 if X is, otherwise float64.

    Raises
    ------
    ValueError
        If an argument is not finite, has the wrong shape, or lies outside its range.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If samples are not done after `max_iter` steps.

    References
    ----------
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM
    J. Imaging Sci. 2:183, 2009: equations 4.1 to 4.3, and theorem 4.4 for its rate.
    """
    return _encode(X, dictionary, alpha, init, max_iter, tol, accelerate=True)


def lasso_objective(X, dictionary, alpha, code):
    """What `ista` and `fista` minimise: ``0.5 * ||x - h @ dictionary||^2 + alpha * ||h||_1`` of each sample.

    Parameters
    ----------
    X : array-like, shape (n_samples, n_features)
    dictionary : array-like, shape (n_components, n_features)
    alpha : float
    code : array-like, shape (n_samples, n_components)

    Returns
    -------
    numpy.ndarray, shape (n_samples,), float64
    """
    X, dictionary, alpha, code = _check(X, dictionary, alpha, code, "code")
    residual = X.astype(float) - code.astype(float) @ dictionary
    return 0.5 * np.sum(residual**2, axis=1) + alpha * np.abs(code, dtype=float).sum(axis=1)


def kkt_violation(X, dictionary, alpha, code):
    """How far each code is from the conditions that hold at the optimum and nowhere else.

    With the correlations ``c = dictionary @ (x - h @ dictionary)`` of atoms and residual they are
    ``c_j = alpha * sign(h_j)`` where h_j is not zero, and ``abs(c_j) <= alpha`` where it is.

    Parameters
    ----------
    X : array-like, shape (n_samples, n_features)
    dictionary : array-like, shape (n_components, n_features)
    alpha : float
    code : array-like, shape (n_samples, n_components)

    Returns
    -------
    numpy.ndarray, shape (n_samples,), float64
        The largest excess over its atoms, in the units of alpha; 0 at the optimum.
    """
    X, dictionary, alpha, code = _check(X, dictionary, alpha, code, "code")
    correlation = (X.astype(float) - code.astype(float) @ dictionary) @ dictionary.T
    excess = np.where(
        code == 0, np.maximum(np.abs(correlation) - alpha, 0), np.abs(correlation - alpha * np.sign(code))
    )
    return excess.max(axis=1)


def _encode(X, dictionary, alpha, init, max_iter, tol, accelerate):
    X, dictionary, alpha, init = _check(X, dictionary, alpha, init, "init")
    if isinstance(max_iter, bool) or not isinstance(max_iter, numbers.Integral) or max_iter < 1:
        raise ValueError(f"max_iter must be a positive integer, got {max_iter!r}")
    if not (isinstance(tol, numbers.Real) and 0 <= tol < math.inf):
        raise ValueError(f"tol must be a number of at least 0, got {tol!r}")
    gram = dictionary @ dictionary.T
    step = _step_length(dictionary)
    correlation = X @ dictionary.T
    energy = np.einsum("ij,ij->i", X, X)
    code = np.zeros_like(correlation) if init is None else init.copy()
    running = np.arange(len(X))
    h, y, t = code.copy(), code.copy(), 1.0
    for iteration in range(1, max_iter + 1):
        previous = h
        h = y + step * (correlation[running] - y @ gram)
        h -= np.clip(h, -alpha * step, alpha * step)
        y = h
        if accelerate:
            t_next = (1 + math.sqrt(1 + 4 * t**2)) / 2
            y = h + (t - 1) / t_next * (h - previous)
            t = t_next
        if tol > 0 and (iteration % _CHECK_EVERY == 0 or iteration == max_iter):
            done = _done(h, h @ gram, correlation[running], energy[running], alpha, tol)
            code[running[done]] = h[done]
            running, h, y = running[~done], h[~done], y[~done]
            if not len(running):
                return code
    code[running] = h
    if tol > 0:
        warnings.warn(
            f"{len(running)} of {len(X)} samples did not reach tol={tol} in max_iter={max_iter} steps",
            ConvergenceWarning,
            stacklevel=3,
        )
    return code


def _done(h, h_gram, correlation, energy, alpha, tol):
    gradient = correlation - h_gram
    largest = np.abs(gradient).max(axis=1)
    if alpha == 0:
        return largest <= tol * np.abs(correlation).max(axis=1)
    scale = alpha / np.maximum(largest, alpha)
    magnitude = np.abs(h).sum(axis=1)
    inner = np.einsum("ij,ij->i", h, gradient)
    error = np.maximum(energy - np.einsum("ij,ij->i", h, correlation + gradient), 0)
    gap = 0.5 * (1 - scale) ** 2 * error + alpha * magnitude - scale * inner
    return gap <= tol * (0.5 * error + alpha * magnitude)


def _step_length(dictionary):
    """1 / L."""
    small = dictionary.astype(float)
    small = small @ small.T if len(small) <= small.shape[1] else small.T @ small
    largest = np.linalg.eigvalsh(small)[-1]
    return dictionary.dtype.type(1 / largest if largest > 0 else 1)


def _check(X, dictionary, alpha, code, name):
    """The arguments as arrays of one dtype; a ValueError that says what is wrong with one."""
    X = _as_table(X, "X", "(n_samples, n_features)")
    X = X if X.dtype == np.float32 else X.astype(float, copy=False)
    dictionary = _as_table(dictionary, "dictionary", "(n_components, n_features)").astype(X.dtype, copy=False)
    if not len(dictionary):
        raise ValueError(f"dictionary must hold at least one atom, got the shape {dictionary.shape}")
    if X.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"X must have as many features as the atoms of dictionary, {dictionary.shape[1]}, got {X.shape[1]}"
        )
    if not (isinstance(alpha, numbers.Real) and 0 <= alpha < math.inf):
        raise ValueError(f"alpha must be a number of at least 0, got {alpha!r}")
    if code is not None:
        code = _as_table(code, name, "(n_samples, n_components)").astype(X.dtype, copy=False)
        if code.shape != (len(X), len(dictionary)):
            raise ValueError(
                f"{name} must have the shape (n_samples, n_components) = {(len(X), len(dictionary))}, "
                f"got {code.shape}"
            )
    return X, dictionary, X.dtype.type(alpha), code


def _as_table(values, name, shape):
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be a table of real numbers of the shape {shape}, "
            f"got the shape {values.shape} and the dtype {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got nan or infinity")
    return values


class LISTA(nn.Module):
    """Learned ISTA: a network whose layers are steps of `ista` with weights that can be trained.

    A layer computes ``h = shrink(x @ W_e.T + h @ S.T, theta)``, starting from h = 0, with ``shrink(z, theta) =
    sign(z) * max(abs(z) - theta, 0)``. All layers share the weights. At first ``W_e = dictionary / L``,
    ``S = I - dictionary @ dictionary.T / L`` and ``theta = alpha / L``, with which the layers are the steps of
    `ista`; training fits them to the data, so that few layers come as close as many steps.

    Parameters
    ----------
    dictionary : array-like, shape (n_components, n_features)
        One atom a row. The weights take its dtype, float32 or float64.
    alpha : float
        Weight of the L1 penalty, at least 0.
    n_layers : int
        Number of steps.

    Attributes
    ----------
    W_e : torch.nn.Parameter, shape (n_components, n_features)
    S : torch.nn.Parameter, shape (n_components, n_components)
    theta : torch.nn.Parameter, shape (n_components,)

    Raises
    ------
    ValueError
        If an argument is not finite, has the wrong shape, or lies outside its range.

    References
    ----------
    Gregor and LeCun, "Learning fast approximations of sparse coding", ICML 2010, algorithm 3.
    """

    def __init__(self, dictionary, alpha, n_layers):
        super().__init__()
        if isinstance(n_layers, bool) or not isinstance(n_layers, numbers.Integral) or n_layers < 1:
            raise ValueError(f"n_layers must be a positive integer, got {n_layers!r}")
        dictionary = np.asarray(dictionary)
        _, dictionary, alpha, _ = _check(dictionary, dictionary, alpha, None, "")
        step = _step_length(dictionary)
        self.n_layers = n_layers
        self.W_e = nn.Parameter(torch.from_numpy(step * dictionary))
        self.S = nn.Parameter(
            torch.from_numpy(np.eye(len(dictionary), dtype=step.dtype) - step * dictionary @ dictionary.T)
        )
        self.theta = nn.Parameter(torch.full((len(dictionary),), float(step * alpha), dtype=self.W_e.dtype))

    def forward(self, X):
        """Codes (n_samples, n_components) of the samples (n_samples, n_features)."""
        drive = X @ self.W_e.T
        h = self._shrink(drive)
        for _ in range(self.n_layers - 1):
            h = self._shrink(drive + h @ self.S.T)
        return h

    def _shrink(self, z):
        return torch.sign(z) * torch.relu(torch.abs(z) - self.theta)
