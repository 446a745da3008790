"""Sparse coding: the code of least cost under an L1 penalty, by ISTA and FISTA."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from labutils.rules import check_counts, check_numbers

_LOOK_EVERY = 3  # steps between looks at the duality gap
_BLOCK_BYTES = 2**18  # of each of the seven arrays that a step goes through
# Of FISTA's steps; found by trying on whitened image patches:
_FIRST_CURVATURE = 0.5  # share of L with which a sample starts
_EASE = 0.94  # factor on the curvature from look to look, by which steps lengthen again
_SLACK = 0.01  # share by which momentum may raise the objective from look to look


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
        third step): no code has an objective lower by more than that fraction. The gap is a bound, and a
        generous one: codes that are done with 1e-2 are typically within 1e-4 of the least objective, with 1e-4
        within 1e-8. Where alpha is 0 there is no such bound, and a sample is done when ``abs(dictionary @ (x - h @
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
    ``y = h + k / (k + 3) * (h - previous h)`` at step k. Three things are added, for each sample by itself:

    - Momentum begins anew (k = 0) where it points uphill (O'Donoghue and Candes).
    - Steps are as long as the curvature met on the way allows, which is far less than L where the code stays
      sparse. They may lengthen again (Scheinberg, Goldfarb and Bai), until that makes the objective rise: then
      the sample returns to its last code. They are never shorter than 1 / L.
    - Atoms are taken at length one, with alpha divided by their lengths, so that their scale does not matter.

    Samples are iterated a few at a time, so that their arrays stay in the processor's cache, and the next one
    takes the place of one that is done.

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
    X, dictionary, alpha, init = _check(X, dictionary, alpha, init, "init")
    check_counts(max_iter=max_iter)
    check_numbers(at_least=0, tol=tol)

    # In other units: atoms of length one (FISTA only), and correlations of at most one, whose squares neither
    # overflow nor vanish.
    lengths = np.linalg.norm(dictionary.astype(float), axis=1) if accelerate else np.ones(len(dictionary))
    lengths = np.where(lengths > 0, lengths, 1).astype(X.dtype)
    dictionary = dictionary / lengths[:, None]
    codes = X @ dictionary.T  # a sample's correlations with the atoms, until its code takes their place
    scale = max(codes.max(initial=0), -codes.min(initial=0)) or X.dtype.type(1)
    codes /= scale
    penalty = alpha / scale / lengths

    waiting = np.arange(len(X))
    if init is None:  # the code stays zero where no atom matches well enough
        some = (codes > penalty).any(axis=1) | (codes < -penalty).any(axis=1)
        codes[~some] = 0
        waiting = waiting[some]
    block = _Block(len(waiting), dictionary, penalty, accelerate)
    n_failed = 0
    while block.n or len(waiting):
        rows, waiting = np.split(waiting, [block.size - block.n])
        x, h = X[rows] / scale, 0 if init is None else init[rows] * (lengths / scale)
        block.admit(rows, codes[rows], np.vecdot(x, x), h)
        for _ in range(min(_LOOK_EVERY, max_iter - block.n_steps.max())):
            block.step()
        converged = block.look(tol)
        finished = converged | (block.n_steps == max_iter)
        n_failed += np.count_nonzero(finished & ~converged)
        codes[block.rows[finished]] = block.h[finished]
        block.keep(~finished)
    if n_failed and tol > 0:
        warnings.warn(
            f"{n_failed} of {len(X)} samples did not reach tol={tol} within max_iter={max_iter} steps",
            ConvergenceWarning,
            stacklevel=3,
        )
    codes *= scale / lengths
    return codes


class _Block:
    """Samples iterated side by side: few enough for the cache, enough for fast products.

    The atoms' correlations with a sample are c, those with its residual are g = c - h @ gram, where h is its
    code. The last step went from y, and led from h_before and g_before to h and g; h_kept is the code at the
    last look. The number of steps since momentum began is `age`; steps have the length 1 / curvature.
    """

    def __init__(self, n_samples, dictionary, penalty, accelerate):
        self.gram, self.penalty, self.accelerate = dictionary @ dictionary.T, penalty, accelerate
        self.steepest = largest_eigenvalue(dictionary)
        self.size = min(n_samples, max(_BLOCK_BYTES // self.gram[0].nbytes, 16))
        self._wide = list(np.empty((8, self.size, len(penalty)), penalty.dtype))
        self._narrow = np.empty((5, self.size), penalty.dtype)
        self._counts = np.empty((2, self.size), int)
        self._resize(0)

    def _resize(self, n):
        """Let the names stand for the first n rows of the arrays."""
        self.n = n
        self.h, self.g, self.h_before, self.g_before, self.c, self.h_kept, self.y, self.work = (
            a[:n] for a in self._wide
        )
        self.energy, self.objective, self.age, self.curvature, self.ease = self._narrow[:, :n]
        self.rows, self.n_steps = self._counts[:, :n]

    def admit(self, rows, c, energy, h):
        """Begin with samples of these numbers, correlations and squared lengths, at the codes h."""
        new = slice(self.n, self.n + len(rows))
        self._resize(new.stop)
        self.rows[new], self.n_steps[new] = rows, 0
        self.energy[new], self.age[new], self.ease[new] = energy, 0, _EASE
        self.curvature[new] = self.steepest * (_FIRST_CURVATURE if self.accelerate else 1)
        self.c[new] = c
        self.h[new] = self.h_before[new] = self.h_kept[new] = h
        self.g[new] = self.g_before[new] = c if np.isscalar(h) else c - h @ self.gram
        self.objective[new] = sum(self._error_and_cost(new))

    def keep(self, which):
        """Drop the other samples, and close the gaps."""
        n = np.count_nonzero(which)
        if n < self.n:
            gaps, movers = np.flatnonzero(~which[:n]), n + np.flatnonzero(which[n:])
            for array in self._wide[:6]:
                array[gaps] = array[movers]
            self._narrow[:, gaps], self._counts[:, gaps] = self._narrow[:, movers], self._counts[:, movers]
            self._resize(n)

    def step(self):
        """One step for all, in place: the new h and g are written over h_before and g_before."""
        y, work, curvature = self.y, self.work, self.curvature[:, None]
        momentum = (self.age / (self.age + 3))[:, None] if self.accelerate else 0
        np.subtract(self.h, self.h_before, out=y)
        y *= momentum
        y += self.h
        np.subtract(self.g, self.g_before, out=work)
        work *= momentum
        work += self.g  # the correlations at y, since they are affine in the code
        h = np.multiply(y, curvature, out=self.h_before)
        h += work
        np.minimum(h, self.penalty, out=work)
        np.maximum(work, -self.penalty, out=work)
        h -= work  # soft thresholding
        h /= curvature
        np.matmul(h, self.gram, out=self.g_before)
        np.subtract(self.c, self.g_before, out=self.g_before)
        self._wide[:4] = self._wide[2:4] + self._wide[:2]
        self.h, self.g, self.h_before, self.g_before = self.h_before, self.g_before, self.h, self.g
        self.age += 1
        self.n_steps += 1

    def _error_and_cost(self, which=slice(None)):
        """The two terms of the objective: half the squared residual, and the penalty."""
        h = self.h[which]
        cost = np.vecdot(np.abs(h, out=self.work[which]), self.penalty)
        squared = self.energy[which] - np.vecdot(h, self.c[which]) - np.vecdot(h, self.g[which])
        return 0.5 * np.maximum(squared, 0), cost

    def look(self, tol):
        """Tell which samples have a duality gap of at most tol times their objective; adapt the others."""
        error, cost = self._error_and_cost()
        objective = error + cost
        correlation = np.abs(self.g, out=self.work)
        if self.penalty.any():
            correlation /= self.penalty
            feasible = 1 / np.maximum(correlation.max(axis=1), 1)  # residual times this: a point of the dual
            gap = (1 - feasible) ** 2 * error + cost - feasible * np.vecdot(self.h, self.g)
            converged = gap <= tol * objective
        else:
            converged = correlation.max(axis=1) <= tol * np.abs(self.c).max(axis=1)
        if self.accelerate:
            rounding = 10 * np.finfo(objective.dtype).eps * self.energy
            rose = objective > (1 + _SLACK) * self.objective + rounding
            converged &= ~rose
            self._adapt()
            if rose.any():
                self._go_back(rose)
            self.h_kept[...] = self.h
            np.copyto(self.objective, objective, where=~rose)
        return converged

    def _adapt(self):
        """Begin momentum anew where it points uphill, and set the length of the steps."""
        moved, ahead = np.subtract(self.h, self.h_before, out=self.work), self.y
        ahead -= self.h
        self.age[np.vecdot(ahead, moved) > 0] = 0
        squared = np.vecdot(moved, moved)
        met = np.vecdot(moved, np.subtract(self.g_before, self.g, out=self.y))
        np.divide(met, squared, out=met, where=squared > 0)
        self.curvature *= self.ease
        np.clip(self.curvature, met, self.steepest, out=self.curvature)

    def _go_back(self, which):
        """Return to the codes of the last look, and do not lengthen the steps of these samples again."""
        self.h[which] = self.h_before[which] = self.h_kept[which]
        self.g[which] = self.g_before[which] = self.c[which] - self.h_kept[which] @ self.gram
        self.age[which], self.ease[which] = 0, 1
        self.curvature[which] = np.minimum(2 * self.curvature[which], self.steepest)


def largest_eigenvalue(dictionary):
    """Of dictionary @ dictionary.T; 1 where all the atoms are zero."""
    atoms = dictionary.astype(float)
    smaller = atoms @ atoms.T if len(atoms) <= atoms.shape[1] else atoms.T @ atoms
    return dictionary.dtype.type(np.linalg.eigvalsh(smaller)[-1]) or dictionary.dtype.type(1)


def _check(X, dictionary, alpha, code, name):
    """The arguments as arrays of one dtype; a ValueError that says what is wrong with one."""
    X = _as_table(X, "X", "(n_samples, n_features)")
    dictionary = check_dictionary(dictionary).astype(X.dtype, copy=False)
    if X.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"X must have as many features as the atoms of dictionary, {dictionary.shape[1]}, got {X.shape[1]}"
        )
    check_numbers(at_least=0, alpha=alpha)
    if code is not None:
        code = _as_table(code, name, "(n_samples, n_components)").astype(X.dtype, copy=False)
        if code.shape != (len(X), len(dictionary)):
            raise ValueError(
                f"{name} must have the shape (n_samples, n_components) = {(len(X), len(dictionary))}, "
                f"got {code.shape}"
            )
    return X, dictionary, float(alpha), code


def check_dictionary(dictionary):
    """The dictionary as an array of float32 or float64; a ValueError that says what is wrong with it."""
    dictionary = _as_table(dictionary, "dictionary", "(n_components, n_features)")
    if not dictionary.size:
        raise ValueError(
            f"dictionary must hold at least one atom of at least one feature, got the shape {dictionary.shape}"
        )
    return dictionary


def _as_table(values, name, shape):
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be a table of real numbers of the shape {shape}, "
            f"got the shape {values.shape} and the dtype {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got nan or infinity")
    return values if values.dtype == np.float32 else values.astype(float, copy=False)
