"""Slow feature analysis of time series, in one pass over the data."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from labutils.factor_models.rank import FLOATS, floor_of, precision
from labutils.factor_models.signs import fix_signs
from labutils.rules import check_counts, check_numbers

_BLOCK_ROWS = 1024  # enough for fast products, few enough for a hundred columns to stay in the cache


class SlowFeatureAnalysis(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Linear slow feature analysis (SFA) of a time series.

    Finds the linear functions y_j(t) = w_j . (x(t) - mean) of the input that vary most slowly in time: they
    minimise Delta(y_j), the mean of (y_j(t + 1) - y_j(t))^2, one after the other, where each y_j has zero
    mean and unit variance and is uncorrelated with those before it [1]_. The w_j solve the generalised
    eigenproblem A w = Delta B w, where A is the mean of (x(t + 1) - x(t)) (x(t + 1) - x(t))' and B the
    covariance of x.

    Nonlinear functions are had by expanding the input first, for instance with
    :class:`sklearn.preprocessing.PolynomialFeatures`; see the example.

    Parameters
    ----------
    n_components : int, default=None
        Number of slow features, at most the rank of the data; None means as many as that.
    tol : float, default=1e-10
        Directions whose variance is at most `tol` times the largest are cut off, since nothing but rounding
        would be seen in them [2]_. Variances are those of the columns scaled to unit variance, so that the
        units of the columns do not matter. Directions in which the data vary by no more than their own rounding
        are cut off, too, and columns are given no weight: float32 has 7 digits; see `rounding_floor`.

    Attributes
    ----------
    components_ : ndarray, shape (n_components_, n_features)
        The weights w_j, a feature a row, by increasing Delta. The entry of largest absolute value of each
        is positive.
    delta_values_ : ndarray, shape (n_components_,)
        Delta of each feature: 0 for a constant, 2 for white noise, 4 for a sign that changes at each step.
    mean_ : ndarray, shape (n_features,)
    mixing_ : ndarray, shape (n_features, n_components_)
        Regression of x on the features: what :meth:`inverse_transform` multiplies with.
    rank_ : int
        Number of directions in which the data vary.
    n_components_ : int
    n_samples_seen_ : int
    n_steps_seen_ : int
        Number of steps from one sample to the next, of which there is one less than samples in each sequence.
    n_features_in_ : int
    feature_names_in_ : ndarray, shape (n_features,)
        Only when X has feature names that are all strings.

    See Also
    --------
    sklearn.decomposition.PCA : Directions of largest variance, whatever the order of samples.

    Notes
    -----
    The data are read once, in blocks (a numpy.memmap will do); two matrices (n_features, n_features) are kept
    of them. Sums are taken over the same blocks however the data come in, so that `fit` and any sequence of
    `partial_fit` agree to the last bit.

    Variances have 1 / n_samples, not 1 / (n_samples - 1): the features have unit variance as numpy.var has
    it.

    Features of equal Delta, such as sine and cosine of the angle of a steady rotation, are determined up to a
    rotation among them.

    References
    ----------
    .. [1] Wiskott and Sejnowski, "Slow Feature Analysis: Unsupervised Learning of Invariances", Neural
       Computation 14:715-770, 2002.
    .. [2] Konen, "On the numeric stability of the SFA implementation sfa-tk", arXiv:0912.1064, 2009.

    Examples
    --------
    The first example of [1]_: sin(t) is a quadratic function of an input that varies eleven times as fast.

    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import PolynomialFeatures
    >>> from labutils.factor_models import SlowFeatureAnalysis
    >>> t = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    >>> X = np.column_stack([np.sin(t) + np.cos(11 * t) ** 2, np.cos(11 * t)])
    >>> sfa = make_pipeline(PolynomialFeatures(2, include_bias=False), SlowFeatureAnalysis(n_components=1))
    >>> y = sfa.fit_transform(X)
    >>> print(f"{abs(np.corrcoef(y[:, 0], np.sin(t))[0, 1]):.6f}")
    1.000000

    Any other expansion does as well: ``FunctionTransformer(expand)`` in the place of PolynomialFeatures.

    A series too long for the memory, in chunks:

    >>> sfa = SlowFeatureAnalysis(n_components=1)
    >>> for chunk in np.array_split(X, 7):
    ...     sfa = sfa.partial_fit(chunk)
    >>> bool((sfa.components_ == SlowFeatureAnalysis(n_components=1).fit(X).components_).all())
    True
    """

    def __init__(self, n_components=None, *, tol=1e-10):
        self.n_components = n_components
        self.tol = tol

    def fit(self, X, y=None, *, lengths=None):
        """Find the slow features of a time series, or of several.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            In order of time.
        y : None
            Ignored.
        lengths : array-like of int, shape (n_sequences,), default=None
            If X holds several sequences one after the other: their lengths, which add up to n_samples. The
            step from one sequence to the next does not count.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not finite, has fewer than two samples in a row or does not vary, `n_components` exceeds
            its rank, or `lengths` do not add up to n_samples.
        """
        unchecked = self._validate(X, reset=True, ensure_min_samples=2, ensure_all_finite=False)
        starts = _starts(lengths, len(unchecked))
        moments = _Moments(unchecked.shape[1])
        moments.add(unchecked, starts)
        if not moments.are_finite():  # seen without another pass over the data
            self._validate(X, reset=True)
        self._keep(moments)
        self._solution = self._solve()
        return self

    def partial_fit(self, X, y=None, *, new_sequence=False):
        """Go on with the next chunk of a time series.

        The result is that of `fit` to all the chunks at once. It is computed when it is first asked for; so
        the first chunks may have fewer samples than `n_components` needs.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            In order of time; the step from the last sample of the chunk before to the first of this counts.
        y : None
            Ignored.
        new_sequence : bool, default=False
            Whether a new sequence begins with this chunk, so that the step to its first sample does not
            count.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not finite or has another number of features than the chunks before. The chunk then does
            not count. What else `fit` refuses is raised when the result is asked for.
        """
        first = not hasattr(self, "_moments")
        X = self._validate(X, reset=first)
        moments = _Moments(X.shape[1]) if first else self._moments
        moments.add(X, [0] if first or new_sequence else [])
        self._keep(moments)
        return self

    def transform(self, X):
        """Compute the slow features of samples.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples, n_components_)
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOATS)
        solution = self._solved()
        Y = np.empty((len(X), len(solution.components)))
        for begin in range(0, len(X), _BLOCK_ROWS):
            rows = slice(begin, begin + _BLOCK_ROWS)
            np.matmul(X[rows] - solution.mean, solution.components.T, out=Y[rows])
        return Y

    def inverse_transform(self, Y):
        """Reconstruct samples from their slow features: the linear regression of x on y.

        With as many components as the rank, samples in the range of the data come back as they were.

        Parameters
        ----------
        Y : array-like, shape (n_samples, n_components_)

        Returns
        -------
        ndarray, shape (n_samples, n_features)
        """
        check_is_fitted(self)
        solution = self._solved()
        Y = check_array(Y, dtype=float, input_name="Y")
        if Y.shape[1] != len(solution.components):
            raise ValueError(
                f"Y must have {len(solution.components)} columns, one a component, as transform returns it, "
                f"got {Y.shape[1]}"
            )
        X = Y @ solution.mixing.T
        X += solution.mean
        return X

    @property
    def components_(self):
        return self._solved().components

    @property
    def delta_values_(self):
        return self._solved().delta_values

    @property
    def mean_(self):
        return self._solved().mean

    @property
    def mixing_(self):
        return self._solved().mixing

    @property
    def rank_(self):
        return self._solved().rank

    @property
    def n_components_(self):
        return len(self._solved().components)

    @property
    def _n_features_out(self):
        return self.n_components_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_moments")

    def _validate(self, X, **how):
        if self.n_components is not None:
            check_counts(n_components=self.n_components)
        check_numbers(above=0, tol=self.tol)
        if self.tol >= 1:
            raise ValueError(f"tol must be below 1, got {self.tol!r}")
        X = validate_data(self, X, dtype=FLOATS, **how)
        if self.n_components is not None and self.n_components > X.shape[1]:
            raise ValueError(
                f"n_components={self.n_components} exceeds the number of features of X, {X.shape[1]}: "
                "choose at most that"
            )
        return X

    def _keep(self, moments):
        self._moments, self._solution = moments, None
        self.n_samples_seen_, self.n_steps_seen_ = moments.n_samples, moments.n_steps

    def _solve(self):
        return _solve(*self._moments.totals(), self._moments.eps, self.n_components, self.tol)

    def _solved(self):
        """What the samples seen so far give, computed when it is first needed after new ones."""
        check_is_fitted(self)
        if self._solution is None:
            try:
                self._solution = self._solve()
            except ValueError as error:  # as an AttributeError too, so that hasattr and dir work meanwhile
                raise NotFittedError(str(error)) from None
        return self._solution


def _starts(lengths, n_samples):
    """Rows with which sequences begin."""
    if lengths is None:
        return [0]
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or (lengths < 1).any():
        raise ValueError(f"lengths must be a list of positive integers, got {lengths.tolist()!r}")
    if lengths.sum() != n_samples:
        raise ValueError(f"lengths must add up to the number of samples, {n_samples}, got {lengths.sum()}")
    return [0, *np.cumsum(lengths)[:-1].tolist()]


class _Moments:
    """Mean, covariance and mean product of steps of a series that comes in chunks.

    Rows are gathered into blocks of a fixed size: sums are then the same to the last bit, whatever the
    chunks. The rows of a block are centred on the mean of all blocks before it (the first on its own), and
    the sums moved to the new mean after each block; so that data far from zero lose no digits.
    """

    def __init__(self, n_features):
        self.n_samples = self.n_steps = 0
        self.eps = 0.0  # precision of the coarsest chunk
        self._n_summed = 0  # rows in the sums; the others wait in the block
        self._centre = np.zeros(n_features)
        self._products = np.zeros((n_features, n_features))  # of rows less the centre
        self._step_products = np.zeros((n_features, n_features))
        self._rows = np.zeros((1 + _BLOCK_ROWS, n_features))  # the row before the block, then the block
        self._n_rows = 0
        self._starts = []

    def add(self, X, starts):
        """Take the next rows; `starts` are those among them with which a sequence begins."""
        self.n_samples += len(X)
        self.n_steps += len(X) - len(starts)
        self.eps = max(self.eps, precision(X.dtype))
        begin = 0
        while begin < len(X):
            end = min(begin + _BLOCK_ROWS - self._n_rows, len(X))
            to = 1 + self._n_rows
            np.subtract(X[begin:end], self._centre, out=self._rows[to : to + end - begin])
            here = starts[bisect_left(starts, begin) : bisect_left(starts, end)]
            self._starts += [start - begin + self._n_rows for start in here]
            self._n_rows += end - begin
            if self._n_rows == _BLOCK_ROWS:
                self._n_summed, self._centre, self._products, self._step_products = self._sums()
                self._n_rows, self._starts = 0, []
                self._rows[0] = X[end - 1] - self._centre
            begin = end

    def are_finite(self):
        return bool(np.isfinite(self._products).all() and np.isfinite(self._rows[1 : 1 + self._n_rows]).all())

    @np.errstate(over="ignore", invalid="ignore")  # fit looks for such values in the sums
    def _sums(self):
        """Number of rows, mean, products of rows and of steps, with the block."""
        rows = self._rows[1 : 1 + self._n_rows]
        steps = rows - self._rows[: self._n_rows]
        steps[self._starts] = 0
        centre = self._centre
        if self._n_summed == 0:
            mean = rows.mean(axis=0)
            rows, centre = rows - mean, centre + mean
        n_summed = self._n_summed + len(rows)
        total = np.ones(len(rows)) @ rows  # faster than rows.sum(axis=0)
        products = rows.T @ rows
        products += self._products
        products -= np.outer(total, total / n_summed)
        step_products = steps.T @ steps
        step_products += self._step_products
        return n_summed, centre + total / n_summed, products, step_products

    def totals(self):
        """Number of steps, mean, covariance, mean product of steps."""
        n_summed, mean, products, step_products = self._sums()
        return self.n_steps, mean, products / n_summed, step_products / max(self.n_steps, 1)


@dataclass(frozen=True, eq=False)
class _Solution:
    components: np.ndarray
    delta_values: np.ndarray
    mean: np.ndarray
    mixing: np.ndarray
    rank: int


def _solve(n_steps, mean, covariance, steps, eps, n_components, tol):
    """Whiten, then rotate to the directions in which the whitened data move least."""
    if n_steps == 0:
        raise ValueError("slow features need at least 2 samples in a row, and there were none")
    if not (np.isfinite(covariance).all() and np.isfinite(steps).all()):
        raise ValueError("the values of X are too large: their squares are infinite")
    std = np.sqrt(np.maximum(np.diag(covariance), 0))
    floor = floor_of(np.hypot(mean, std), eps)
    varies = std > floor
    if not varies.any():
        raise ValueError("X does not vary: each of its columns is constant")
    scale = np.where(varies, std, np.inf)
    variances, axes = eigh(covariance / scale / scale[:, None])
    rounding = np.sum(
        (axes * (floor / scale)[:, None]) ** 2, axis=0
    )  # the variance that it may make along each
    kept = variances > np.maximum(tol * variances[-1], rounding)
    rank = int(kept.sum())
    if n_components is None:
        n_components = rank
    if n_components > rank:
        raise ValueError(
            f"n_components={n_components} exceeds the rank of the data: X varies in {rank} "
            f"direction{'s' if rank > 1 else ''} (with tol={tol}); choose at most that"
        )
    whitening = axes[:, kept] / np.sqrt(variances[kept])
    moves = whitening.T @ (steps / scale / scale[:, None]) @ whitening
    delta_values, rotation = eigh(moves, subset_by_index=[0, n_components - 1])
    components = fix_signs((whitening @ rotation).T / scale)
    return _Solution(components, np.maximum(delta_values, 0), mean, covariance @ components.T, rank)
