"""What counts as a direction in which data vary, and what is nothing but rounding."""

import numpy as np
from sklearn.utils import check_array

FLOATS = [np.float64, np.float32, np.float16]  # an input of these keeps its precision until it is known
_MARGIN = 50  # roundings: data have seldom been rounded only once before one gets them


def rounding_floor(X):
    """Standard deviation up to which each column may vary by rounding alone.

    Centred data that are constant, average-referenced, or sums of one another have directions without
    variance. In floating point something is left there, and whitening would blow it up to variance 1. How much
    is left depends on how precise the input was when it came (float32 has 7 digits, whatever it is converted
    to later) and on the size of each column. So measure the columns in units of this floor: then a direction
    counts if its standard deviation is above 1, whatever the units and the precision of the data::

        floor = rounding_floor(X)
        centred = X - X.mean(axis=0)
        centred -= centred.mean(axis=0)  # a mean of many numbers is rounded, too
        _, s, axes = np.linalg.svd(centred / floor, full_matrices=False)
        counts = s > np.sqrt(len(X))

    Parameters
    ----------
    X : array-like, shape (n_samples, n_features)
        As it was given, before any conversion.

    Returns
    -------
    numpy.ndarray, shape (n_features,), float64
        In the units of the columns, and above 0: ``50 * sqrt(n_features) * eps * (root mean square)``, with the
        eps of the input's dtype (that of float64 for integers). An entry is rounded by at most eps / 2 of itself;
        errors of d columns can add up to sqrt(d) times as much along a direction; and 50 leaves room for what
        was computed before.

    Raises
    ------
    ValueError
        If X is no table of finite numbers.

    References
    ----------
    Golub and Van Loan, *Matrix Computations*, chapter 5, on numerical rank: the threshold is the error of the
    data, and eps only where that is all the error there is. On scaling: Stewart, "Rank degeneracy", SIAM
    J. Sci. Stat. Comput. 5:403, 1984.
    """
    X = check_array(X, dtype=FLOATS)
    largest = np.maximum(X.max(axis=0), -X.min(axis=0))
    shares = X / np.where(largest > 0, largest, 1)  # whose squares neither overflow nor vanish
    rms = largest * np.sqrt(np.einsum("ij,ij->j", shares, shares, dtype=np.float64) / len(X))
    return floor_of(rms, precision(X.dtype))


def precision(dtype):
    """Spacing of numbers of a dtype, relative to their size: not below that of float64, with which we compute."""
    return float(max(np.finfo(dtype).eps, np.finfo(np.float64).eps))


def floor_of(rms, eps):
    """The floor of columns of which the root mean squares and the precision are known."""
    return np.maximum(_MARGIN * np.sqrt(len(rms)) * eps * rms, np.finfo(np.float64).tiny)
