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


def make(name, seed=0):
    """The matrix of that name, drawn with a seed."""
    return MAKERS[name](np.random.default_rng(seed))


def rank(X):
    """Number of directions in which X varies."""
    return int(np.linalg.matrix_rank(X - X.mean(axis=0)))
