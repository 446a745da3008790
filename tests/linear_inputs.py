"""Data matrices on which linear methods go wrong."""

import numpy as np


def _random(rng):
    return rng.standard_normal((200, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 10


def _rank_deficient(rng):
    return rng.standard_normal((50, 3)) @ np.diag([4, 2, 1]) @ rng.standard_normal((3, 8))


def _wide(rng):
    return rng.standard_normal((8, 20)) * np.geomspace(5, 0.1, 20)


def _constant_column(rng):
    X = rng.standard_normal((60, 5)) * [5, 4, 3, 2, 1]
    X[:, 2] = 7.0
    return X


def _badly_scaled(rng):
    return rng.standard_normal((100, 4)) * [1e6, 1.0, 1e3, 1e-3]


def _few_samples_far_from_zero(rng):
    return rng.standard_normal((10, 3)) * [3, 2, 1] + 1e4


MAKERS = {
    "random": _random,
    "rank deficient": _rank_deficient,
    "fewer samples than features": _wide,
    "constant column": _constant_column,
    "badly scaled": _badly_scaled,
    "far from zero": _few_samples_far_from_zero,
}


def _sources(rng, q=3, n=600):
    return rng.laplace(size=(n, q))


def _large_constant(rng):
    return np.column_stack([_sources(rng, 2), np.full(600, 123456789.1)])


def _nearly_constant(rng):
    """Constant but for the last digit, as a computed column is."""
    return np.column_stack([_sources(rng, 2), 0.1 + 1e-17 * rng.integers(-3, 4, 600)])


def _average_reference(n_channels, level=0.0, moved=0.0, dtype=np.float32):
    def make(rng):
        mixed = _sources(rng, n_channels) @ rng.standard_normal((n_channels, n_channels)) + level
        X = mixed.astype(dtype)
        X = X - X.mean(axis=1, keepdims=True)
        return X + (moved * rng.standard_normal(X.shape)).astype(dtype)

    return make


def _far_apart_units(rng):
    return _sources(rng, 2) * [1e9, 1e-9]


def _mixed_in_far_apart_units(rng):
    return _sources(rng) @ rng.standard_normal((3, 3)) * [1e9, 1.0, 1e-9]


def _noise_beside_a_small_sine(rng):
    return np.column_stack([1e6 * rng.standard_normal(600), 1e-6 * np.sin(np.arange(600) / 20)])


def _sums(rng):
    X = _sources(rng)
    return np.hstack([X, X[:, :1] + X[:, 1:2], X @ rng.standard_normal((3, 4))])


def _sums_in_far_apart_units(rng):
    return _sums(rng) * np.geomspace(1e9, 1e-9, 8)


def _sums_far_from_zero(rng):
    return _sums(rng) + 1e9


def _sums_in_single_precision(rng):
    X = _sources(rng).astype(np.float32)
    return np.hstack([X, X[:, :1] + X[:, 1:2], 100 + X[:, 2:] - X[:, :1]])


def _far_from_zero_in_single_precision(rng):
    X = 300 + _sources(rng).astype(np.float32)
    return np.hstack([X, X[:, :1] + X[:, 1:2], X[:, 2:] - X[:, :1] + 500])


def _wide_and_far_from_zero(rng):
    return rng.standard_normal((12, 300)) + 1e4


def _wide_in_single_precision(rng):
    return (rng.standard_normal((12, 40)) + 10).astype(np.float32)


def _small_but_real(rng):
    X = _sources(rng)
    return np.column_stack([X[:, 0], X[:, 0] + 1e-4 * X[:, 1], X[:, 2]])


def _large_values(rng):
    return _sources(rng) * 1e150


HARD = {  # beside each matrix the number of directions in which it varies
    "large constant column": (_large_constant, 2),
    "nearly constant column": (_nearly_constant, 2),
    "average reference of 3 channels": (_average_reference(3), 2),
    "average reference of 8 channels": (_average_reference(8), 7),
    "average reference of 32 channels": (_average_reference(32), 31),
    "average reference, far from zero before": (_average_reference(8, level=30), 7),
    "average reference, moved by 1e-6": (_average_reference(3, moved=1e-6), 2),
    "average reference in double precision": (_average_reference(8, dtype=np.float64), 7),
    "average reference in half precision": (_average_reference(4, dtype=np.float16), 3),
    "units of 1e9 beside 1e-9": (_far_apart_units, 2),
    "mixed, units of 1e9 beside 1e-9": (_mixed_in_far_apart_units, 3),
    "noise of 1e6 beside a sine of 1e-6": (_noise_beside_a_small_sine, 2),
    "sums of columns": (_sums, 3),
    "sums of columns, units far apart": (_sums_in_far_apart_units, 3),
    "sums of columns, far from zero": (_sums_far_from_zero, 3),
    "sums of columns in single precision": (_sums_in_single_precision, 3),
    "sums of columns in single precision, far from zero": (_far_from_zero_in_single_precision, 3),
    "wide and far from zero": (_wide_and_far_from_zero, 11),
    "wide, in single precision": (_wide_in_single_precision, 11),
    "small but real": (_small_but_real, 3),
    "large values": (_large_values, 3),
}


def make_hard(name, seed=0):
    """The matrix of that name, drawn with a seed, and its rank once it is centred."""
    maker, rank = HARD[name]
    return maker(np.random.default_rng(seed)), rank


def make(name, seed=0):
    """The matrix of that name, drawn with a seed."""
    return MAKERS[name](np.random.default_rng(seed))


def rank(X):
    """Number of directions in which X varies."""
    return int(np.linalg.matrix_rank(X - X.mean(axis=0)))
