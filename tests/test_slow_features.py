"""Slow feature analysis: closed forms, two oracles, hard inputs, chunks, memory, bad input."""

import doctest
import pickle
import tracemalloc

import linear_inputs
import numpy as np
import pytest
import sksfa
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

from labutils.factor_models import SlowFeatureAnalysis, fix_signs, slow_features


def reference(X, breaks=()):
    """Slow features by singular value decompositions of the data and its steps; also their Delta values.

    `breaks` are rows with which a new sequence begins.
    """
    X = np.asarray(X, dtype=float)
    centred = X - X.mean(axis=0)
    std = np.sqrt((centred**2).mean(axis=0))
    U = np.linalg.svd(centred / np.where(std > 0, std, 1), full_matrices=False)[0]
    white = U[:, : linear_inputs.rank(X)] * len(X) ** 0.5
    steps = np.delete(np.diff(white, axis=0), np.asarray(breaks, dtype=int) - 1, axis=0)
    _, s, Vt = np.linalg.svd(steps, full_matrices=False)
    return white @ Vt[::-1].T, s[::-1] ** 2 / len(steps)


def slow_series(n_samples, n_features, seed=0):
    """A mixture of autoregressive signals, the slowest with a time constant of some 50 samples."""
    rng = np.random.default_rng(seed)
    keep = np.linspace(0.1, 0.98, n_features)
    signals = rng.standard_normal((n_samples, n_features))
    for t in range(1, n_samples):
        signals[t] = keep * signals[t - 1] + np.sqrt(1 - keep**2) * signals[t]
    return signals @ rng.standard_normal((n_features, n_features)) + 3


def wiskott_sejnowski(n_samples=2000):
    """The first example of Wiskott and Sejnowski (2002), and the slow signal in it."""
    t = np.linspace(0, 2 * np.pi, n_samples, endpoint=False)
    return np.column_stack([np.sin(t) + np.cos(11 * t) ** 2, np.cos(11 * t)]), np.sin(t)


def correlation(a, b):
    """Absolute correlation of each column of `a` with that of `b`."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.abs((a * b).sum(axis=0)) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def assert_same(one, other, atol=0):
    """The fits are the same: to the last bit, or to `atol` relative to the largest entry."""
    for name in ("components_", "delta_values_", "mean_", "mixing_"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * np.abs(b).max(), err_msg=name)
    for name in ("n_samples_seen_", "n_steps_seen_", "rank_", "n_components_"):
        assert getattr(one, name) == getattr(other, name), name


@parametrize_with_checks([SlowFeatureAnalysis(), SlowFeatureAnalysis(n_components=1)])
def test_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_examples_in_the_docstring_hold():
    failed, tried = doctest.testmod(slow_features)
    assert tried > 5
    assert failed == 0


# Closed forms


@pytest.mark.parametrize("n_features", [29, 40])
def test_short_series_of_many_features_gives_cosines_of_time(n_features):
    # Every function of time is then linear in x, and the slowest are the eigenvectors of a path's Laplacian.
    n = 30
    X = np.random.default_rng(0).standard_normal((n, n_features))
    sfa = SlowFeatureAnalysis().fit(X)
    j = np.arange(1, n)
    assert sfa.rank_ == n - 1
    np.testing.assert_allclose(sfa.delta_values_, n / (n - 1) * (2 - 2 * np.cos(np.pi * j / n)), atol=1e-10)
    cosines = np.cos(np.pi * j * (np.arange(n)[:, None] + 0.5) / n)
    assert correlation(sfa.transform(X), cosines).min() > 1 - 1e-10


def test_steady_rounds_on_a_ring_give_pairs_of_harmonics():
    n, rounds = 5000, 10
    angle = 2 * np.pi * rounds * np.arange(n) / n
    j = np.repeat(np.arange(1, 5), 2)
    harmonics = np.cos(j * angle[:, None] - np.tile([0, np.pi / 2], 4))
    mix = np.random.default_rng(0).standard_normal((8, 11))
    sfa = SlowFeatureAnalysis().fit(harmonics @ mix)
    assert sfa.rank_ == 8
    np.testing.assert_allclose(sfa.delta_values_, 2 - 2 * np.cos(2 * np.pi * j * rounds / n), rtol=1e-3)
    y = sfa.transform(harmonics @ mix)
    for pair in range(0, 8, 2):
        both = harmonics[:, pair : pair + 2]
        residual = y[:, pair : pair + 2] - both @ np.linalg.lstsq(both, y[:, pair : pair + 2])[0]
        assert np.mean(residual**2) < 1e-6


def test_linear_functions_of_the_classic_example_reach_two_over_root_five():
    X, slow = wiskott_sejnowski()
    y = SlowFeatureAnalysis(n_components=1).fit_transform(X)
    assert correlation(y, slow[:, None]) == pytest.approx(2 / 5**0.5, abs=1e-5)


@pytest.mark.parametrize(
    "expansion",
    [
        PolynomialFeatures(2, include_bias=False),
        FunctionTransformer(lambda X: np.column_stack([X, X**2, X[:, 0] * X[:, 1]])),
    ],
)
def test_quadratic_functions_of_the_classic_example_find_the_sine(expansion):
    X, slow = wiskott_sejnowski()
    pipeline = make_pipeline(expansion, SlowFeatureAnalysis(n_components=1))
    assert correlation(pipeline.fit_transform(X), slow[:, None]) > 1 - 1e-9
    np.testing.assert_allclose(pipeline[-1].delta_values_, 2 - 2 * np.cos(2 * np.pi / 2000), rtol=1e-3)


# Oracles


@pytest.mark.parametrize("name", linear_inputs.MAKERS)
def test_hard_inputs_agree_with_singular_value_decompositions(name):
    X = linear_inputs.make(name)
    before = X.copy()
    sfa = SlowFeatureAnalysis().fit(X)
    y = sfa.transform(X)
    expected, delta_values = reference(X)
    assert sfa.rank_ == sfa.n_components_ == expected.shape[1]
    np.testing.assert_allclose(sfa.delta_values_, delta_values, rtol=1e-8)
    assert correlation(y, expected).min() > 1 - 1e-9
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(sfa.rank_), atol=1e-8)
    np.testing.assert_allclose((np.diff(y, axis=0) ** 2).mean(axis=0), sfa.delta_values_, rtol=1e-8)
    np.testing.assert_array_equal(sfa.components_, fix_signs(sfa.components_))
    np.testing.assert_allclose(sfa.inverse_transform(y), X, rtol=0, atol=1e-8 * np.abs(X).max())
    np.testing.assert_array_equal(X, before)


def test_fewer_components_are_the_slowest_of_all():
    X = linear_inputs.make("random")
    few, all_of_them = SlowFeatureAnalysis(n_components=2).fit(X), SlowFeatureAnalysis().fit(X)
    np.testing.assert_allclose(few.components_, all_of_them.components_[:2], atol=1e-12)
    np.testing.assert_allclose(few.delta_values_, all_of_them.delta_values_[:2], atol=1e-12)
    assert few.transform(X).shape == (len(X), 2)
    assert few.get_feature_names_out().tolist() == ["slowfeatureanalysis0", "slowfeatureanalysis1"]


def test_reconstruction_from_few_components_is_the_regression_on_them():
    X = linear_inputs.make("random")
    sfa = SlowFeatureAnalysis(n_components=2).fit(X)
    y = np.column_stack([sfa.transform(X), np.ones(len(X))])
    np.testing.assert_allclose(sfa.inverse_transform(y[:, :2]), y @ np.linalg.lstsq(y, X)[0], atol=1e-9)


def test_agrees_with_sklearn_sfa():
    # which subtracts the mean step and divides by n - 2: the more alike, the longer the series
    X = slow_series(20_000, 8)
    sfa, peer = SlowFeatureAnalysis().fit(X), sksfa.SFA().fit(X)
    np.testing.assert_allclose(sfa.delta_values_, peer.delta_values_, rtol=1e-5)
    assert 1 - correlation(sfa.transform(X), peer.transform(X)).min() < 1e-9


# Symmetries


def test_an_invertible_linear_map_of_the_input_changes_nothing():
    X = slow_series(3000, 6)
    rng = np.random.default_rng(1)
    mapped = X @ (rng.standard_normal((6, 6)) * np.geomspace(1e-3, 1e6, 6)) + 100
    sfa, other = SlowFeatureAnalysis().fit(X), SlowFeatureAnalysis().fit(mapped)
    np.testing.assert_allclose(sfa.delta_values_, other.delta_values_, rtol=1e-9)
    assert correlation(sfa.transform(X), other.transform(mapped)).min() > 1 - 1e-10


def test_time_reversal_changes_nothing():
    X = slow_series(3000, 6)
    assert_same(SlowFeatureAnalysis().fit(X[::-1]), SlowFeatureAnalysis().fit(X), atol=1e-10)


def test_shuffled_samples_give_other_features():
    X = slow_series(3000, 6)
    shuffled = SlowFeatureAnalysis().fit(np.random.default_rng(0).permutation(X))
    assert SlowFeatureAnalysis().fit(X).delta_values_[0] < 0.1
    assert shuffled.delta_values_[0] > 1.5


# Numbers that are hard to compute with


@pytest.mark.parametrize("offset", [1e4, -1e8])
def test_data_far_from_zero_lose_no_more_digits_than_they_have(offset):
    X = slow_series(5000, 6)
    far = X + offset
    sfa = SlowFeatureAnalysis().fit(far)
    expected, delta_values = reference(far)
    np.testing.assert_allclose(sfa.delta_values_, delta_values, rtol=1e-9)
    assert correlation(sfa.transform(far), expected).min() > 1 - 1e-10


@pytest.mark.parametrize("where", ["first sample", "first block", "drift"])
def test_a_start_far_from_the_rest_loses_no_digits(where):
    X = slow_series(5000, 6)
    if where == "first sample":
        X[0] += 1e6
    elif where == "first block":
        X[: slow_features._BLOCK_ROWS] += 1e6
    else:
        X += np.linspace(0, 1e6, len(X))[:, None] * np.arange(1, 7)
    moments = slow_features._Moments(6)
    moments.add(X, [0])
    n_steps, mean, covariance, step_covariance = moments.totals()
    centred, steps = X - X.mean(axis=0), np.diff(X, axis=0)
    std, step_std = X.std(axis=0), np.sqrt((steps**2).mean(axis=0))
    assert (np.abs(mean - X.mean(axis=0)) < 1e-13 * std).all()
    assert (np.abs(covariance - centred.T @ centred / len(X)) < 1e-13 * np.outer(std, std)).all()
    assert (np.abs(step_covariance - steps.T @ steps / n_steps) < 1e-13 * np.outer(step_std, step_std)).all()


def test_constant_columns_get_no_weight_even_where_rounding_makes_them_quiver():
    X = slow_series(3000, 3)
    constant = np.column_stack([X, np.full(len(X), 1e9), np.zeros(len(X)), np.full(len(X), 0.1)])
    constant[::2, -1] = np.nextafter(0.1, 1)
    sfa = SlowFeatureAnalysis().fit(constant)
    assert sfa.rank_ == 3
    assert (sfa.components_[:, 3:] == 0).sum() == 9
    np.testing.assert_allclose(sfa.delta_values_, SlowFeatureAnalysis().fit(X).delta_values_, rtol=1e-10)


def test_dependent_columns_leave_no_spurious_slow_features():
    X = slow_series(3000, 5)
    X = np.column_stack([X, X @ np.random.default_rng(0).standard_normal((5, 20)), X[:, 0] * 1e-9])
    sfa = SlowFeatureAnalysis().fit(X)
    assert sfa.rank_ == 5
    np.testing.assert_allclose(sfa.delta_values_, reference(X[:, :5])[1], rtol=1e-8)


def test_tol_sets_which_directions_are_cut_off():
    x, noise = np.random.default_rng(0).standard_normal((2, 1000))
    X = np.column_stack([np.tile(x, (50, 1)).T, x + 1e-3 * noise])  # variances 51 and 1e-6
    assert SlowFeatureAnalysis(tol=1e-8).fit(X).rank_ == 2
    assert SlowFeatureAnalysis(tol=1e-7).fit(X).rank_ == 1


def test_float32_is_computed_in_float64():
    X = (slow_series(3000, 6) + 1e3).astype(np.float32)
    sfa = SlowFeatureAnalysis().fit(X)
    assert_same(sfa, SlowFeatureAnalysis().fit(X.astype(float)))
    assert sfa.transform(X).dtype == np.float64
    np.testing.assert_array_equal(sfa.transform(X), sfa.transform(X.astype(float)))


# Chunks and sequences


@pytest.mark.parametrize("chunk", [1, 7, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("series", ["slow", "ring"])
def test_chunks_give_what_the_whole_gives(series, chunk):
    X = slow_series(2500, 5)
    if series == "ring":  # pairs of equal Delta: any rotation within a pair would do as well
        angle = np.arange(2500) * (2 * np.pi / 500)
        X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]) + 5
    sfa = SlowFeatureAnalysis()
    for begin in range(0, len(X), chunk):
        assert sfa.partial_fit(X[begin : begin + chunk]) is sfa
    assert_same(sfa, SlowFeatureAnalysis().fit(X))
    np.testing.assert_array_equal(sfa.transform(X), SlowFeatureAnalysis().fit_transform(X))


def test_the_result_may_be_looked_at_between_chunks():
    X = slow_series(2500, 5)
    sfa = SlowFeatureAnalysis()
    for begin, end in [(0, 1100), (1100, 1101), (1101, 2500)]:
        sfa.partial_fit(X[begin:end])
        assert_same(sfa, SlowFeatureAnalysis().fit(X[:end]))
        sfa = pickle.loads(pickle.dumps(sfa))


@pytest.mark.parametrize("lengths", [[900, 1, 1, 598], [2, 1022, 1, 3, 472], [1024, 476]])
def test_steps_between_sequences_do_not_count(lengths):
    X = slow_series(1500, 5)
    ends = np.cumsum(lengths)
    for k, end in enumerate(ends):
        X[end:] += 50 * (k + 1)
    sfa = SlowFeatureAnalysis().fit(X, lengths=lengths)
    expected, delta_values = reference(X, breaks=ends[:-1])
    assert sfa.n_steps_seen_ == 1500 - len(lengths)
    np.testing.assert_allclose(sfa.delta_values_, delta_values, rtol=1e-8)
    assert correlation(sfa.transform(X), expected).min() > 1 - 1e-9

    parts = SlowFeatureAnalysis()
    for begin, end in zip([0, *ends], ends, strict=False):
        parts.partial_fit(X[begin:end][:10], new_sequence=True)
        if end - begin > 10:
            parts.partial_fit(X[begin:end][10:])
    assert_same(parts, sfa)
    assert SlowFeatureAnalysis().fit(X).delta_values_[0] > 2 * sfa.delta_values_[0]


@pytest.mark.parametrize("seed", range(5))
def test_what_changes_only_between_sequences_has_a_delta_of_zero(seed):
    rng = np.random.default_rng(seed)
    label, noise = np.repeat(rng.standard_normal(20), 50), rng.standard_normal((1000, 4))
    X = np.column_stack([label + noise.sum(axis=1), noise])
    sfa = SlowFeatureAnalysis().fit(X, lengths=[50] * 20)
    assert 0 <= sfa.delta_values_[0] < 1e-12
    assert sfa.delta_values_[1] > 1
    assert correlation(sfa.transform(X)[:, 0], label) > 1 - 1e-12


def test_lengths_pass_through_a_pipeline():
    X, _ = wiskott_sejnowski()
    pipeline = make_pipeline(PolynomialFeatures(2, include_bias=False), SlowFeatureAnalysis())
    pipeline.fit(X, slowfeatureanalysis__lengths=[1500, 500])
    assert pipeline[-1].n_steps_seen_ == 1998


def test_fit_forgets_what_was_seen_before():
    X = slow_series(500, 4)
    sfa = SlowFeatureAnalysis().partial_fit(X + 7).fit(X)
    assert_same(sfa, SlowFeatureAnalysis().fit(X))


# Memory


def peak(function, *arguments):
    """Most memory in bytes that a call took beyond what there was."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_beyond_the_input_does_not_grow_with_the_series(dtype, order):
    X = np.asarray(100 * np.random.default_rng(0).standard_normal((100_000, 10)), dtype=dtype, order=order)
    copy = X.nbytes if dtype == np.int64 else 0  # integers are turned into float64 first
    few = 0.1 * X.nbytes
    assert peak(SlowFeatureAnalysis().fit, X) < copy + few
    assert peak(SlowFeatureAnalysis().partial_fit, X) < copy + few
    sfa = SlowFeatureAnalysis(n_components=2).fit(X)
    assert peak(sfa.transform, X) < copy + len(X) * 2 * 8 + few


# Bad input


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("n_components", "message"),
    [
        (0, "n_components must be a positive integer, got 0"),
        (2.0, "n_components must be a positive integer, got 2.0"),
        ("all", "n_components must be a positive integer, got 'all'"),
        (True, "n_components must be a positive integer, got True"),
        (7, "n_components=7 exceeds the number of features of X, 6: choose at most that"),
    ],
)
def test_impossible_numbers_of_components_are_refused(method, n_components, message):
    with pytest.raises(ValueError, match=message):
        getattr(SlowFeatureAnalysis(n_components), method)(linear_inputs.make("random"))


@pytest.mark.parametrize("tol", [0, -1e-3, 1, "small", None, np.nan])
def test_impossible_tolerances_are_refused(tol):
    with pytest.raises(ValueError, match="tol must be"):
        SlowFeatureAnalysis(tol=tol).fit(linear_inputs.make("random"))


def test_more_components_than_the_data_have_directions_are_refused():
    X = linear_inputs.make("rank deficient")
    with pytest.raises(
        ValueError, match="n_components=4 exceeds the rank of the data: X varies in 3 directions"
    ):
        SlowFeatureAnalysis(n_components=4).fit(X)
    sfa = SlowFeatureAnalysis(n_components=4).partial_fit(X)
    with pytest.raises(
        ValueError, match="n_components=4 exceeds the rank of the data: X varies in 3 directions"
    ):
        sfa.transform(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("row", "n_samples"), [(0, 1500), (700, 2048), (1499, 1500)])
@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_are_refused_and_do_no_harm(row, n_samples, value):
    X = slow_series(n_samples, 3)
    bad = X.copy()
    bad[[row, -1], 1] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        SlowFeatureAnalysis().fit(bad)
    sfa = SlowFeatureAnalysis().partial_fit(X)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        sfa.partial_fit(bad)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        sfa.transform(bad)
    with pytest.raises(ValueError, match="has 2 features, but SlowFeatureAnalysis is expecting 3 features"):
        sfa.partial_fit(X[:, :2])
    assert_same(sfa, SlowFeatureAnalysis().fit(X))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_samples", [100, 3000])
def test_values_whose_squares_overflow_are_refused(n_samples):
    X = 1e200 * np.random.default_rng(0).standard_normal((n_samples, 3))
    with pytest.raises(ValueError, match="the values of X are too large: their squares are infinite"):
        SlowFeatureAnalysis().fit(X)


def test_data_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="X does not vary: each of its columns is constant"):
        SlowFeatureAnalysis().fit(np.full((10, 3), 0.1))


def test_a_single_sample_is_refused_by_fit_and_waited_for_by_partial_fit():
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\)"):
        SlowFeatureAnalysis().fit(np.ones((1, 3)))
    with pytest.raises(
        ValueError, match="slow features need at least 2 samples in a row, and there were none"
    ):
        SlowFeatureAnalysis().fit(np.eye(3), lengths=[1, 1, 1])
    sfa = SlowFeatureAnalysis().partial_fit(np.ones((1, 3)))
    with pytest.raises(NotFittedError, match="slow features need at least 2 samples in a row"):
        sfa.transform(np.ones((1, 3)))
    assert not hasattr(sfa, "components_")
    assert "SlowFeatureAnalysis" in sfa._repr_html_()
    assert sfa.partial_fit(np.zeros((1, 3))).rank_ == 1


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([100, 99], "lengths must add up to the number of samples, 200, got 199"),
        ([200, 0], r"lengths must be a list of positive integers, got \[200, 0\]"),
        ([100.0, 100.0], "lengths must be a list of positive integers"),
        (200, "lengths must be a list of positive integers, got 200"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        SlowFeatureAnalysis().fit(linear_inputs.make("random"), lengths=lengths)


def test_features_that_do_not_fit_are_refused_on_the_way_back():
    sfa = SlowFeatureAnalysis(n_components=2).fit(linear_inputs.make("random"))
    with pytest.raises(
        ValueError, match="Y must have 2 columns, one a component, as transform returns it, got 3"
    ):
        sfa.inverse_transform(np.ones((4, 3)))
    with pytest.raises(ValueError, match="Input Y contains NaN"):
        sfa.inverse_transform([[0, np.nan]])


def test_nothing_is_known_before_the_first_sample():
    sfa = SlowFeatureAnalysis()
    assert not hasattr(sfa, "components_")
    for method in (sfa.transform, sfa.inverse_transform):
        with pytest.raises(NotFittedError):
            method(np.ones((2, 2)))
