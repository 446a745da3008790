"""ICA whose components come in groups: overlapping ones on a grid, separate ones, or groups of one."""

import math
import warnings
from collections import deque

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from labutils.factor_models.rank import FLOATS, rounding_floor
from labutils.factor_models.signs import fix_signs
from labutils.rules import check_counts, check_numbers

_BLOCK = 512  # samples at a time: small enough for the cache, large enough for a matrix product
_MEMORY = 10  # steps that L-BFGS remembers
_FIRST_TURN = 0.5  # of the first step, in radians
_SUFFICIENT = 1e-4  # share of the decrease foretold by the slope with which a step is accepted
_HALVINGS = 30  # of a step, before the search gives up


def grid_neighbourhood(grid, radius=1):
    """Neighbourhoods on a grid whose opposite edges touch (a torus): all units within a square around each.

    Parameters
    ----------
    grid : tuple of two int
        Rows and columns. Unit number ``row * columns + column`` sits at ``(row, column)``.
    radius : int
        Half the square's side: 0 for the unit alone, 1 for a square of 3 x 3 units, and so on.

    Returns
    -------
    numpy.ndarray, shape (n_units, n_units), float64
        1 where the unit of the column belongs to the neighbourhood of the unit of the row, else 0.
    """
    if not (isinstance(grid, tuple | list) and len(grid) == 2):
        raise ValueError(f"grid must be a pair, rows and columns, got {grid!r}")
    check_counts(**{"grid[0]": grid[0], "grid[1]": grid[1]})
    check_counts(at_least=0, radius=radius)
    rows, columns = grid
    row, column = np.divmod(np.arange(rows * columns), columns)
    near = (_ring_distance(row, rows) <= radius) & (_ring_distance(column, columns) <= radius)
    return near.astype(float)


def block_neighbourhood(n_groups, group_size):
    """Separate groups of equal size: the pooling matrix of independent subspace analysis.

    Parameters
    ----------
    n_groups, group_size : int
        Units 0 to ``group_size - 1`` make the first group, and so on.

    Returns
    -------
    numpy.ndarray, shape (n_groups, n_groups * group_size), float64
        1 where the unit of the column belongs to the group of the row, else 0.
    """
    check_counts(n_groups=n_groups, group_size=group_size)
    return np.repeat(np.eye(n_groups), group_size, axis=1)


class TopographicICA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Topographic independent component analysis, with independent subspace analysis and ICA as special cases.

    The data are centred, whitened to z, and turned: sources are h = R z with an orthogonal R that minimises

        mean over samples of  sum_i sqrt(epsilon + sum_j G_ij h_j^2),

    where G, the pooling matrix, says how much unit j counts in group i. That is minus the log-likelihood, up
    to constants, of sources that share their strength with the others of their group and have heavy tails.
    With overlapping groups on a grid the sources form a map (Hyvärinen, Hoyer and Inki 2001); with separate
    groups this is independent subspace analysis (Hyvärinen and Hoyer 2000), and with groups of one plain ICA.
    Flat sources (of negative kurtosis) are not separated: the model of heavy tails is wrong for them.

    The objective is minimised by L-BFGS over the orthogonal matrices. It has local minima, so another
    `random_state` gives another map; where it matters, as with separate groups, fit from several and keep the
    model of the lowest `objective_`.

    Parameters
    ----------
    n_components : int, optional
        Sources, and leading principal components that are kept. By default as many as `neighbourhood` or
        `grid` say, and else the rank of the data, which is the number of directions in which they vary by more
        than rounding; see `rounding_floor`.
    grid : tuple of two int, optional
        Rows and columns of the map; by default as near to a square as `n_components` allows.
    radius : int
        Half the side of a neighbourhood on the grid; 0 gives plain ICA. See `grid_neighbourhood`.
    neighbourhood : array-like, shape (n_groups, n_components), optional
        A pooling matrix G of your own, instead of `grid` and `radius`; entries are at least 0, and each unit
        belongs to some group. See `block_neighbourhood` for independent subspaces.
    epsilon : float
        Rounds the square root off at 0; sources have variance 1.
    max_iter : int
        Iterations at most.
    tol : float
        Stop when no rotation of two sources changes the objective by more than this per radian.
    random_state : int, RandomState instance or None
        Draws the rotation to begin with.

    Attributes
    ----------
    components_ : numpy.ndarray, shape (n_components, n_features)
        Unmixing matrix: sources are ``(X - mean_) @ components_.T``. Row ``row * columns + column`` belongs to
        the place (row, column) of the grid. Signs are those of `fix_signs`: each row's entry of largest
        absolute value is positive.
    mixing_ : numpy.ndarray, shape (n_features, n_components)
        Its columns are the features that sources add up to data; ``components_ @ mixing_`` is the identity.
    mean_ : numpy.ndarray, shape (n_features,)
    neighbourhood_ : numpy.ndarray, shape (n_groups, n_components)
        The pooling matrix G.
    grid_ : tuple of two int, or None
        Rows and columns of the map; None if `neighbourhood` was given.
    objective_ : float
        What was minimised, at the end.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray of str
        Only if X has names of str.

    Raises
    ------
    ValueError
        From `fit`, if X is constant or has a lower rank than `n_components`, or a parameter makes no sense.

    References
    ----------
    Hyvärinen, Hoyer and Inki, "Topographic independent component analysis", Neural Computation 13:1527, 2001.
    Hyvärinen and Hoyer, "Emergence of phase- and shift-invariant features by decomposition of natural images
    into independent feature subspaces", Neural Computation 12:1705, 2000.
    """

    def __init__(
        self,
        n_components=None,
        *,
        grid=None,
        radius=1,
        neighbourhood=None,
        epsilon=0.01,
        max_iter=1000,
        tol=1e-3,
        random_state=None,
    ):
        self.n_components = n_components
        self.grid = grid
        self.radius = radius
        self.neighbourhood = neighbourhood
        self.epsilon = epsilon
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X, y=None):
        """Find the sources of X.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        TopographicICA
            Itself.
        """
        self._check_numbers()
        X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        floor = rounding_floor(X)
        X = X.astype(np.float64, copy=False)
        self.mean_ = X.mean(axis=0)
        whitening, mixing = _principal_axes(X - self.mean_, floor)
        self._settle_groups(rank=len(whitening))
        n_components = self.neighbourhood_.shape[1]
        whitening, mixing = whitening[:n_components], mixing[:, :n_components]
        Z = (X - self.mean_) @ whitening.T
        start = check_random_state(self.random_state).standard_normal((n_components, n_components))
        left, _, right = np.linalg.svd(start)
        rotation = self._minimise(left @ right, Z)
        unmixing = rotation @ whitening
        self.components_ = fix_signs(unmixing)
        self.mixing_ = mixing @ rotation.T * np.sign(np.sum(unmixing * self.components_, axis=1))
        self._n_features_out = n_components
        return self

    def transform(self, X):
        """Estimate the sources.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)

        Returns
        -------
        numpy.ndarray, shape (n_samples, n_components)
            Of mean 0 and variance 1 on the data of `fit`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_.T

    def inverse_transform(self, X):
        """Data that sources add up to.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_components)
            Sources.

        Returns
        -------
        numpy.ndarray, shape (n_samples, n_features)
        """
        check_is_fitted(self)
        X = check_array(X, dtype=np.float64)
        if X.shape[1] != self.mixing_.shape[1]:
            raise ValueError(f"X must have one column a component, {self.mixing_.shape[1]}, got {X.shape[1]}")
        return X @ self.mixing_.T + self.mean_

    def _check_numbers(self):
        if self.n_components is not None:
            check_counts(n_components=self.n_components)
        check_counts(max_iter=self.max_iter)
        check_numbers(above=0, epsilon=self.epsilon)
        check_numbers(at_least=0, tol=self.tol)

    def _settle_groups(self, rank):
        """Set the pooling matrix and the grid that belong to the parameters and the data."""
        self.grid_ = None
        if self.neighbourhood is not None:
            pooling = check_array(self.neighbourhood, dtype=np.float64, input_name="neighbourhood")
            if pooling.min() < 0 or not pooling.any(axis=0).all():
                raise ValueError("neighbourhood must have no negative entry and no column of zeros")
        else:
            grid = _near_square(self.n_components or rank) if self.grid is None else self.grid
            pooling = grid_neighbourhood(grid, self.radius)
            self.grid_ = tuple(grid)
        n_components = pooling.shape[1]
        if self.n_components not in (None, n_components):
            raise ValueError(
                f"n_components is {self.n_components}, but grid or neighbourhood has {n_components} units"
            )
        if n_components > rank:
            raise ValueError(f"X must have at least the rank {n_components}, one a component, but has {rank}")
        if n_components > 1 and np.ptp(pooling) == 0:
            warnings.warn(
                "every neighbourhood holds all components alike, so that any rotation is as good as another; "
                "take a larger grid or a smaller radius",
                stacklevel=3,
            )
        self.neighbourhood_ = pooling

    def _minimise(self, rotation, Z):
        """Turn the rotation downhill until it rests (L-BFGS; a step is a turn, a skew-symmetric matrix)."""
        identity = np.eye(len(rotation))
        memory = deque(maxlen=_MEMORY)
        value, gradient = _objective(rotation, Z, self.neighbourhood_, self.epsilon)
        for n_iter in range(1, self.max_iter + 1):
            self.n_iter_ = n_iter
            turn = _next_turn(gradient, memory)
            slope = np.vdot(turn, gradient) / 2
            for halving in range(_HALVINGS):
                part = turn / 2**halving
                # Cayley's map: orthogonal like the matrix exponential, equal to it to second order, cheaper
                tried = np.linalg.solve(identity - part / 2, (identity + part / 2) @ rotation)
                new_value, new_gradient = _objective(tried, Z, self.neighbourhood_, self.epsilon)
                if new_value <= value + _SUFFICIENT * slope / 2**halving:
                    break
            else:
                break  # nothing lower within reach
            change = new_gradient - gradient
            curvature = np.vdot(part, change)
            if curvature > 1e-8 * np.linalg.norm(part) * np.linalg.norm(change):
                memory.append((part, change, 1 / curvature))
            rotation, value, gradient = tried, new_value, new_gradient
            if np.abs(gradient).max() <= self.tol:
                break
        if np.abs(gradient).max() > self.tol:
            warnings.warn(
                f"not converged after {self.n_iter_} iterations: a slope of {np.abs(gradient).max():.2g} is left, "
                f"above tol, {self.tol:g}; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.objective_ = value
        return rotation


def _objective(rotation, Z, pooling, epsilon):
    """What is minimised, and its slope along a turn of any two sources (a skew-symmetric matrix)."""
    value, products = 0.0, np.zeros_like(rotation)
    for start in range(0, len(Z), _BLOCK):
        H = Z[start : start + _BLOCK] @ rotation.T
        strength = np.sqrt(epsilon + H**2 @ pooling.T)
        value += strength.sum()
        products += (H * ((1 / strength) @ pooling)).T @ H
    return value / len(Z), (products - products.T) / len(Z)


def _next_turn(gradient, memory):
    """Step of L-BFGS against the gradient, no turn beyond one radian (Nocedal 1980, two-loop recursion)."""
    if not memory:
        return -gradient * (_FIRST_TURN / max(np.linalg.norm(gradient, 2), 1e-300))
    step, weights = -gradient, []
    for part, change, inverse in reversed(memory):
        weights.append(inverse * np.vdot(part, step))
        step = step - weights[-1] * change
    _, change, inverse = memory[-1]
    step = step / (inverse * np.vdot(change, change))
    for (part, change, inverse), weight in zip(memory, reversed(weights), strict=True):
        step = step + (weight - inverse * np.vdot(change, step)) * part
    largest = np.linalg.norm(step, 2)
    return step / largest if largest > 1 else step


def _principal_axes(centred, floor):
    """Matrices to whiten the data and to undo it, by the principal components that vary by more than rounding."""
    centred = centred - centred.mean(axis=0)  # once more, for a mean of many numbers is rounded, too
    units = np.linalg.qr(centred / floor, mode="r") / math.sqrt(len(centred))
    _, std, axes = np.linalg.svd(units, full_matrices=False)  # of columns in units of their rounding
    kept = std > 1
    if not kept.any():
        raise ValueError("X must not be constant in all columns")
    std, axes = std[kept], axes[kept]
    # White already; the rest turns white data to the principal components of the data in their own units.
    loadings, spread, turn = np.linalg.svd(floor[:, None] * axes.T * std, full_matrices=False)
    signs = np.sign(np.sum(loadings * fix_signs(loadings.T).T, axis=0))
    return signs[:, None] * turn @ (axes / std[:, None] / floor), loadings * spread * signs


def _near_square(n):
    """Rows and columns, as near to each other as whole numbers with the product n can be."""
    rows = next(rows for rows in range(math.isqrt(n), 0, -1) if n % rows == 0)
    return rows, n // rows


def _ring_distance(place, size):
    """Distances on a ring of a size between all pairs of places."""
    apart = np.abs(place[:, None] - place)
    return np.minimum(apart, size - apart)
