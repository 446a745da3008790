"""Sparse coding: the code of least cost under an L1 penalty, by ISTA and FISTA, and an encoder that learns it."""

import math
import numbers
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from labutils.training import check_counts

_CHECK_EVERY = 4  # steps between looks at the duality gap
_BLOCK_BYTES = 2**18  # of each of the seven arrays that the steps go through: they shall stay in the cache
_FIRST_CURVATURE = 0.5  # of the largest, at a sample's first step
_EASE, _EASE_UNTIL = 0.92, 200  # how fast the steps may lengthen again, and until which step they may


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
        Steps at most, for each sample.
    tol : float
        A sample is done when its duality gap is at most `tol` times its objective (looked at after every
        fourth step): no code has an objective lower by more than that fraction. The gap is a bound, and a
        generous one: with 1e-2 codes are typically within 1e-4 of the least objective, with 1e-4 within
        1e-8. Where alpha is 0 there is no such bound, and a sample is done when ``abs(dictionary @ (x - h @
        dictionary))`` is nowhere larger than `tol` times the largest ``abs(dictionary @ x)``. With 0 all
        steps are made, and nothing is said. Computing in float32, 1e-5 is about the least that is reached.

    Returns
    -------
    numpy.ndarray, shape (n_samples, n_components)
        float32 if X is, otherwise float64; so is the computation.

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
    J. Imaging Sci. 2:183, 2009: equation 1.4, and theorem 3.1 for its rate. The gap is that of Kim, Koh,
    Lustig, Boyd and Gorinevsky, "An interior-point method for large-scale l1-regularized least squares", IEEE
    J. Sel. Topics Signal Process. 1:606, 2007: its dual point is the residual, scaled down until it is
    feasible.
    """
    return _encode(X, dictionary, alpha, init, max_iter, tol, accelerate=False)


def fista(X, dictionary, alpha, *, init=None, max_iter=1000, tol=1e-4):
    """Sparse codes by the fast iterative shrinkage-thresholding algorithm, with restarts.

    As `ista`, but a step starts from a point beyond the last code h, in the direction in which it moved:
    ``y = h + k / (k + 3) * (h - previous h)``. Three more things make it fast, for each sample by itself:

    - momentum begins anew (k = 0) where it points uphill (O'Donoghue and Candes);
    - the length of the steps follows the curvature that the last one met, and so does not depend on directions
      that the sample's code never takes (a form of backtracking in which steps may lengthen again, as in
      Scheinberg, Goldfarb and Bai; steps no longer than 1 / L are always allowed);
    - atoms are taken at length one, with alpha divided by their lengths, so that their scale does not matter.

    A few samples at a time are iterated, so that their arrays stay in the processor's cache, and the next
    sample takes the place of one that is done.

    Parameters
    ----------
    X, dictionary, alpha, init, max_iter, tol
        As for `ista`; where alpha is 0, `tol` is about correlations with atoms of length one.

    Returns
    -------
    numpy.ndarray, shape (n_samples, n_components)
        float32 if X is, otherwise float64; so is the computation. A sample's code does not depend on the
        others, up to rounding.

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
    O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15:715,
    2015.
    Scheinberg, Goldfarb and Bai, "Fast first-order methods for composite convex optimization with
    backtracking", Found. Comput. Math. 14:389, 2014.
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
    """Codes by (F)ISTA: a block of samples is iterated, and where one is done the next takes its place."""
    X, dictionary, alpha, init = _check(X, dictionary, alpha, init, "init")
    check_counts(max_iter=max_iter)
    if not (isinstance(tol, numbers.Real) and 0 <= tol < math.inf):
        raise ValueError(f"tol must be a number of at least 0, got {tol!r}")

    # In other units: atoms of length one, which suit steps of one size, and correlations of at most one,
    # whose squares neither overflow nor vanish.
    lengths = np.linalg.norm(dictionary, axis=1) if accelerate else np.ones(len(dictionary), X.dtype)
    lengths[lengths == 0] = 1
    dictionary = dictionary / lengths[:, None]
    codes = X @ dictionary.T  # a sample's correlations with the atoms, until its code takes their place
    scale = max(codes.max(initial=0), -codes.min(initial=0)) or X.dtype.type(1)
    codes /= scale
    energy = np.square(X / scale).sum(axis=1)
    penalty = alpha / scale / lengths
    gram = dictionary @ dictionary.T
    steepest = _largest_eigenvalue(dictionary)

    waiting = np.arange(len(X))
    if init is None:  # the code stays zero where no atom matches well enough
        some = (codes > penalty).any(axis=1) | (codes < -penalty).any(axis=1)
        codes[~some] = 0
        waiting = waiting[some]
    size = min(len(waiting), max(_BLOCK_BYTES // gram[0].nbytes, 16))
    c, h, h_before, g, g_before, y, work = np.empty((7, size, len(gram)), X.dtype)
    age, curvature = np.empty((2, size, 1), X.dtype)
    row, n_steps = np.empty((2, size), int)
    n, n_failed = 0, 0
    while n or len(waiting):
        new, waiting = np.split(waiting, [size - n])
        fresh = slice(n, n + len(new))
        n += len(new)
        row[fresh], n_steps[fresh], age[fresh] = new, 0, 0
        curvature[fresh] = steepest * (_FIRST_CURVATURE if accelerate else 1)
        c[fresh] = g[fresh] = codes[new]
        h[fresh] = 0
        if init is not None:
            h[fresh] = init[new] * (lengths / scale)
            g[fresh] -= h[fresh] @ gram
        h_before[fresh], g_before[fresh] = h[fresh], g[fresh]

        for _ in range(min(_CHECK_EVERY, max_iter - n_steps[:n].max())):
            momentum = age[:n] / (age[:n] + 3) if accelerate else 0
            _step(
                *(a[:n] for a in (c, h, h_before, g, g_before, y, work, curvature)), momentum, penalty, gram
            )
            h, h_before, g, g_before = h_before, h, g_before, g
            age[:n] += 1
            n_steps[:n] += 1
        if accelerate:
            _adapt(*(a[:n] for a in (h, h_before, g, g_before, y, work, age, curvature, n_steps)), steepest)
        converged = _converged(*(a[:n] for a in (c, h, g, work)), energy[row[:n]], penalty, tol)
        finished = converged | (n_steps[:n] == max_iter)
        if finished.any():
            codes[row[:n][finished]] = h[:n][finished]
            n_failed += np.count_nonzero(finished & ~converged)
            left = n - np.count_nonzero(finished)
            for a in (c, h, h_before, g, g_before, age, curvature, row, n_steps):
                a[:left] = a[:n][~finished]
            n = left
    if n_failed and tol > 0:
        warnings.warn(
            f"{n_failed} of {len(X)} samples did not reach tol={tol} within max_iter={max_iter} steps",
            ConvergenceWarning,
            stacklevel=3,
        )
    codes *= scale / lengths
    return codes


def _step(c, h, h_before, g, g_before, y, work, curvature, momentum, penalty, gram):
    """Write the next codes over h_before, and the atoms' correlations with their residuals over g_before."""
    np.subtract(h, h_before, out=y)
    y *= momentum
    y += h
    np.subtract(g, g_before, out=work)  # the correlations at y, since they are affine in the code
    work *= momentum
    work += g
    z = np.multiply(y, curvature, out=h_before)
    z += work
    np.minimum(z, penalty, out=work)
    np.maximum(work, -penalty, out=work)
    z -= work
    z /= curvature
    np.matmul(z, gram, out=g_before)
    np.subtract(c, g_before, out=g_before)


def _adapt(h, h_before, g, g_before, y, work, age, curvature, n_steps, steepest):
    """Begin momentum anew where it points uphill; fit the length of the steps to the curvature met."""
    moved = np.subtract(h, h_before, out=work)
    y -= h
    age[np.vecdot(y, moved) > 0] = 0
    met = np.vecdot(moved, np.subtract(g_before, g, out=y))
    squared = np.vecdot(moved, moved)
    np.divide(met, squared, out=met, where=squared > 0)
    eased = curvature[:, 0] * np.where(n_steps <= _EASE_UNTIL, h.dtype.type(_EASE), 1)
    curvature[:, 0] = np.minimum(np.maximum(eased, met), steepest)


def _converged(c, h, g, work, energy, penalty, tol):
    """Which samples have a duality gap of at most tol times their objective."""
    np.abs(g, out=work)
    if not penalty.any():
        return work.max(axis=1) <= tol * np.abs(c).max(axis=1)
    work /= penalty
    feasible = 1 / np.maximum(work.max(axis=1), 1)  # the residual times this is a point of the dual problem
    cost = np.vecdot(np.abs(h, out=work), penalty)
    inner = np.vecdot(h, g)
    error = np.maximum(energy - np.vecdot(h, c) - inner, 0)
    gap = 0.5 * (1 - feasible) ** 2 * error + cost - feasible * inner
    return gap <= tol * (0.5 * error + cost)


def _largest_eigenvalue(dictionary):
    """Of dictionary @ dictionary.T; 1 where all the atoms are zero."""
    atoms = dictionary.astype(float)
    smaller = atoms @ atoms.T if len(atoms) <= atoms.shape[1] else atoms.T @ atoms
    return dictionary.dtype.type(np.linalg.eigvalsh(smaller)[-1]) or dictionary.dtype.type(1)


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
        check_counts(n_layers=n_layers)
        dictionary = np.asarray(dictionary)
        _, dictionary, alpha, _ = _check(dictionary, dictionary, alpha, None, "")
        step = 1 / _largest_eigenvalue(dictionary)
        self.n_layers = n_layers
        self.W_e = nn.Parameter(torch.from_numpy(step * dictionary))
        self.S = nn.Parameter(
            torch.from_numpy(np.eye(len(dictionary), dtype=step.dtype) - step * dictionary @ dictionary.T)
        )
        self.theta = nn.Parameter(torch.full((len(dictionary),), float(step * alpha), dtype=self.W_e.dtype))

    def forward(self, X):
        """Codes (n_samples, n_components) of the samples (n_samples, n_features)."""
        n_features = self.W_e.shape[1]
        if X.ndim != 2 or X.shape[1] != n_features:
            raise ValueError(f"X must have the shape (n_samples, {n_features}), got {tuple(X.shape)}")
        drive = X @ self.W_e.T
        h = self._shrink(drive)
        for _ in range(self.n_layers - 1):
            h = self._shrink(drive + h @ self.S.T)
        return h

    def _shrink(self, z):
        return torch.sign(z) * torch.relu(torch.abs(z) - self.theta)
