"""What notebook 07 writes out, against scikit-learn and closed forms, on inputs harder than the lesson's."""

import itertools
import math

import linear_inputs
import numpy as np
import pytest
import scratch
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression

LESSON = scratch.load("07_which_representation")


@pytest.fixture(params=linear_inputs.MAKERS)
def X(request):
    return linear_inputs.make(request.param)


def _blobs(seed=0, n=300, apart=2.0):
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], n // 3)
    return rng.standard_normal((n, 5)) + apart * np.eye(5)[y], y


def test_decoding_all_principal_components_but_some_loses_their_eigenvalues(X):
    q = max(1, linear_inputs.rank(X) - 1)
    pca = PCA(q, svd_solver="full").fit(X)
    rebuilt = LESSON["decode"](pca.transform(X), X, pca.transform(X))
    np.testing.assert_allclose(rebuilt, pca.inverse_transform(pca.transform(X)), atol=1e-6 * np.abs(X).max())
    variances = np.linalg.svd(X - X.mean(axis=0), compute_uv=False) ** 2
    assert LESSON["lost"](X, rebuilt, X.mean(axis=0)) == pytest.approx(
        variances[q:].sum() / variances.sum(), abs=1e-9
    )


def test_decode_is_linear_regression_on_new_codes():
    rng = np.random.default_rng(0)
    H, X, new = rng.standard_normal((50, 3)) + 5, rng.standard_normal((50, 4)), rng.standard_normal((7, 3))
    np.testing.assert_allclose(
        LESSON["decode"](H, X, new), LinearRegression().fit(H, X).predict(new), atol=1e-10
    )


def test_decode_undoes_rotation_scale_and_offset_of_a_code():
    rng = np.random.default_rng(1)
    X, H = rng.standard_normal((60, 6)), rng.standard_normal((60, 3))
    mixed = H @ rng.standard_normal((3, 3)) * [1e3, 1, 1e-3] - 7
    np.testing.assert_allclose(LESSON["decode"](mixed, X, mixed), LESSON["decode"](H, X, H), atol=1e-8)


def test_lost_is_nothing_for_a_copy_and_all_for_the_mean(X):
    mean = X.mean(axis=0)
    assert LESSON["lost"](X, X, mean) == 0
    assert LESSON["lost"](X, np.tile(mean, (len(X), 1)), mean) == 1


@pytest.mark.parametrize("k", [1, 2, 7, 288])
def test_bits_to_name_is_the_logarithm_of_the_binomial_coefficient(k):
    for q in {0, 1, k // 3, k - 1, k}:
        assert LESSON["bits_to_name"](k, q) == pytest.approx(math.log2(math.comb(k, q)), abs=1e-9)


def _hoyer_by_hand(row):
    k = len(row)
    return (k**0.5 - sum(map(abs, row)) / sum(value**2 for value in row) ** 0.5) / (k**0.5 - 1)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, -1.0, 1e200])
def test_hoyer_is_its_definition_at_any_scale_and_order(scale):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((20, 9)) ** 3
    expected = [_hoyer_by_hand(row) for row in H]
    np.testing.assert_allclose(LESSON["hoyer"](scale * H[:, rng.permutation(9)]), expected, atol=1e-12)


def test_hoyer_of_equal_one_and_some_coefficients():
    H = [[1, -1, 1, 1], [0, 0, -3, 0], [2, 2, 0, 0]]
    np.testing.assert_allclose(LESSON["hoyer"](H), [0, 1, 2 - 2**0.5], atol=1e-12)


@pytest.mark.parametrize("k", [4, 40, 400])
def test_hoyer_of_gaussian_noise_is_what_its_moments_say(k):
    H = np.random.default_rng(k).standard_normal((20_000, k))
    ratio = math.exp(2 * math.lgamma(k / 2) - 2 * math.lgamma((k + 1) / 2)) * k / 2
    # E |h|_1 / |h|_2 = k E|u_1| for u on the sphere, which is k Gamma(k/2) / (sqrt(pi) Gamma((k+1)/2))
    expected = (k**0.5 - k**0.5 * (2 * ratio / math.pi) ** 0.5) / (k**0.5 - 1)
    assert LESSON["hoyer"](H).mean() == pytest.approx(expected, abs=0.004)


def test_labels_are_drawn_from_each_class_in_proportion_and_by_the_seed():
    y = np.repeat([0, 1, 2], [500, 300, 200])
    chosen = LESSON["draw_labels"](y, 0.1, 3)
    np.testing.assert_array_equal(np.bincount(y[chosen]), [50, 30, 20])
    assert len(set(chosen)) == 100
    np.testing.assert_array_equal(chosen, LESSON["draw_labels"](y, 0.1, 3))
    assert set(chosen) != set(LESSON["draw_labels"](y, 0.1, 4))
    np.testing.assert_array_equal(LESSON["draw_labels"](y, 1, 3), np.arange(1000))


def test_probe_is_logistic_regression_at_one_of_its_penalties():
    Z, y = _blobs()
    Z_test, y_test = _blobs(1)
    mean, scale = Z.mean(axis=0), Z.var(axis=0).mean() ** 0.5
    accuracies = [
        LogisticRegression(C=C, max_iter=5000, tol=1e-3)
        .fit((Z - mean) / scale, y)
        .score((Z_test - mean) / scale, y_test)
        for C in 10.0 ** np.arange(-4, 2)
    ]
    result = LESSON["probe"](Z, y, Z_test, y_test, 0)
    assert np.abs(np.array(accuracies) - result).min() < 1e-9
    assert result > accuracies[0] - 0.02


def test_probe_does_not_see_the_test_labels():
    """Of two penalties that the test set would rank otherwise, the training set decides."""
    Z, y = _blobs()
    Z_test, y_test = _blobs(1)
    right = LESSON["probe"](Z, y, Z_test, y_test, 0)
    wrong = [LESSON["probe"](Z, y, Z_test, (y_test + shift) % 3, 0) for shift in (1, 2)]
    assert right + sum(wrong) == pytest.approx(1)  # one and the same classifier, scored three times


def test_probe_ignores_the_scale_and_the_offset_of_a_code():
    Z, y = _blobs()
    Z_test, y_test = _blobs(1)
    expected = LESSON["probe"](Z, y, Z_test, y_test, 0)
    assert LESSON["probe"](1e4 * Z - 3, y, 1e4 * Z_test - 3, y_test, 0) == pytest.approx(expected, abs=0.004)


def test_copies_of_a_sample_stay_on_one_side_of_a_split():
    """Noise with random labels, each sample copied: only a leak makes weak penalties look good."""
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((60, 200)), rng.integers(0, 2, 60)
    seen = []

    class Search(LESSON["GridSearchCV"]):
        def fit(self, X, y, groups):
            seen.extend(self.cv.split(X, y, groups))
            return super().fit(X, y, groups=groups)

    probe, groups = LESSON["probe"], np.repeat(np.arange(60), 4)
    original, probe.__globals__["GridSearchCV"] = probe.__globals__["GridSearchCV"], Search
    try:
        probe(Z[groups], y[groups], Z, y, 0, groups)
    finally:
        probe.__globals__["GridSearchCV"] = original
    assert len(seen) == 5
    for fit, held_out in seen:
        assert not set(groups[fit]) & set(groups[held_out])


def test_told_apart_is_a_nearest_neighbour_count():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((40, 3)), rng.standard_normal((40, 3)) + 0.7
    distances = cdist(np.vstack([A, B]), np.vstack([A, B]))
    np.fill_diagonal(distances, np.inf)
    expected = np.mean((distances.argmin(axis=1) < 40) == (np.arange(80) < 40))
    assert LESSON["told_apart"](A, B) == expected


def test_told_apart_goes_from_one_half_to_one():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 2000, 4))
    assert LESSON["told_apart"](A, B) == pytest.approx(0.5, abs=0.03)
    assert LESSON["told_apart"](A, B + 100) == 1


def _arguments():
    Z, y = _blobs()
    return {
        "decode": [Z, Z[:, :2] + 1, Z[:5]],
        "lost": [Z, Z + 1, Z.mean(axis=0)],
        "hoyer": [Z],
        "draw_labels": [y, 0.1, 0],
        "probe": [Z, y, Z[::2].copy(), y[::2].copy(), 0, np.repeat(np.arange(150), 2)],
        "told_apart": [Z, Z + 1],
    }


@pytest.mark.parametrize("name", list(_arguments()))
def test_input_is_not_modified(name):
    arguments = _arguments()[name]
    LESSON[name](*arguments)
    for given, fresh in itertools.zip_longest(arguments, _arguments()[name]):
        np.testing.assert_array_equal(given, fresh)


NAN = np.array([[1.0, np.nan], [2.0, 3.0]])
REFUSED = {
    "lost, other shape": ("lost", [np.ones((3, 2)), np.ones((2, 3)), 0], "differ in shape"),
    "lost, nan": ("lost", [NAN, NAN, 0], "contains NaN"),
    "decode, other length": ("decode", [np.ones((3, 2)), np.ones((4, 2)), np.ones((3, 2))], "inconsistent"),
    "decode, nan": ("decode", [NAN, np.ones((2, 2)), np.ones((2, 2))], "contains NaN"),
    "hoyer, zeros": ("hoyer", [[[1.0, 2.0], [0.0, 0.0]]], "one of them not zero"),
    "hoyer, one column": ("hoyer", [[[1.0], [2.0]]], "at least two coefficients"),
    "hoyer, one dimension": ("hoyer", [[1.0, 2.0]], "Expected 2D array"),
    "hoyer, nan": ("hoyer", [NAN], "contains NaN"),
    "more active than atoms": ("bits_to_name", [5, 6], "from 0 to k = 5"),
    "negative": ("bits_to_name", [5, -1], "from 0 to k = 5"),
    "no labels": ("draw_labels", [np.arange(4), 0, 0], "above 0"),
    "too many labels": ("draw_labels", [np.arange(4), 1.5, 0], "at most 1"),
    "constant code": (
        "probe",
        [np.ones((9, 2)), np.arange(9) % 2, np.ones((9, 2)), np.ones(9), 0],
        "constant",
    ),
    "constant code of large numbers": (
        "probe",
        [np.full((9, 2), 123456789.1), np.arange(9) % 2, np.full((9, 2), 123456789.1), np.arange(9) % 2, 0],
        "constant",
    ),
    "code that varies by rounding": (
        "probe",
        [0.1 + 1e-17 * np.arange(18).reshape(9, 2), np.arange(9) % 2, np.ones((9, 2)), np.arange(9) % 2, 0],
        "constant",
    ),
    "probe, nan": ("probe", [NAN, [0, 1], NAN, [0, 1], 0], "contains NaN"),
    "told_apart, other shape": ("told_apart", [np.ones((3, 2)), np.ones((2, 2))], "the same shape"),
    "told_apart, nan": ("told_apart", [NAN, NAN], "contains NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_makes_no_sense_is_refused(case):
    name, arguments, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        LESSON[name](*arguments)
