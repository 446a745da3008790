"""Slow feature analysis: closed forms, a peer, hard inputs, streams, memory, bad input."""

import numpy as np
from sklearn.utils.estimator_checks import parametrize_with_checks

from labutils.factor_models import SlowFeatureAnalysis


@parametrize_with_checks([SlowFeatureAnalysis()])
def test_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_a_linear_mixture_gives_the_slowest_sine():
    t = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    X = np.column_stack([np.sin(t) + np.cos(11 * t) ** 2, np.cos(11 * t)])
    y = SlowFeatureAnalysis(n_components=1).fit_transform(X)[:, 0]
    assert abs(abs(np.corrcoef(y, np.sin(t))[0, 1]) - 2 / 5**0.5) < 1e-4
