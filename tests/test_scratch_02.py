"""What notebook 02 writes out, against scikit-learn, on inputs harder than the lesson's."""

import warnings

import linear_inputs
import numpy as np
import pytest
import scratch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

LESSON = scratch.load("02_pca")
METHODS = ("pca_eigh", "pca_svd", "pca_power")
# Squaring in the covariance, and a finite number of iterations, cost digits; the SVD has no excuse.
TOLERANCE = {"pca_eigh": 1e-7, "pca_svd": 1e-10, "pca_power": 1e-5}


@pytest.fixture(params=linear_inputs.MAKERS)
def X(request):
    return linear_inputs.make(request.param)


@pytest.mark.parametrize("method", METHODS)
def test_variances_are_those_of_scikit_learn(method, X):
    rank, n = linear_inputs.rank(X), len(X)
    _, _, variances = LESSON[method](X, rank)
    expected = PCA(rank, svd_solver="full").fit(X).explained_variance_ * (n - 1) / n
    np.testing.assert_allclose(variances, expected, rtol=1e-4, atol=TOLERANCE[method] * expected[0])
    assert (np.diff(variances) <= 1e-12 * variances[0]).all()


@pytest.mark.parametrize("method", METHODS)
def test_components_are_those_of_scikit_learn_up_to_sign(method, X):
    rank = linear_inputs.rank(X)
    b, W, _ = LESSON[method](X, rank)
    expected = PCA(rank, svd_solver="full").fit(X)
    np.testing.assert_allclose(b, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(W.T @ W, np.eye(rank), atol=1e-8)
    np.testing.assert_allclose(np.abs(expected.components_ @ W), np.eye(rank), atol=20 * TOLERANCE[method])


@pytest.mark.parametrize("method", METHODS)
def test_all_components_can_be_asked_for_where_some_have_no_variance(method, X):
    q = min(X.shape)
    _, W, variances = LESSON[method](X, q)
    np.testing.assert_allclose(W.T @ W, np.eye(q), atol=1e-8)
    np.testing.assert_allclose(variances[linear_inputs.rank(X) :], 0, atol=1e-9 * variances[0])


@pytest.mark.parametrize("method", METHODS)
def test_largest_entry_of_each_component_is_positive(method, X):
    _, W, _ = LESSON[method](X, linear_inputs.rank(X))
    assert (np.take_along_axis(W, np.abs(W).argmax(axis=0)[None], axis=0) > 0).all()


def test_svd_keeps_a_variance_that_the_covariance_loses():
    X = linear_inputs.make("random")[:, :2]
    X = (X - X.mean(axis=0)) * [1.0, 1e-10]
    true = PCA(2, svd_solver="full").fit(X).explained_variance_[1] * (len(X) - 1) / len(X)
    assert LESSON["pca_svd"](X, 2)[2][1] == pytest.approx(true, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_error_of_the_reconstruction_is_the_sum_of_the_discarded_variances(method):
    X = linear_inputs.make("random")
    b, W, _ = LESSON[method](X, 2)
    error = ((X - b - (X - b) @ W @ W.T) ** 2).sum(axis=1).mean()
    assert error == pytest.approx(np.linalg.eigvalsh(np.cov(X.T, bias=True))[:-2].sum(), rel=1e-8)


@pytest.mark.parametrize("method", [*METHODS, "whiten", "posterior_reconstruction"])
def test_input_is_not_modified(method, X):
    arguments = {"whiten": (), "posterior_reconstruction": (1, 1e-3)}.get(method, (1,))
    before = X.copy()
    LESSON[method](X, *arguments)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("X", "n_components", "sentence"),
    [
        (np.zeros(5), 1, "Expected 2D array"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), 1, "contains NaN"),
        (np.eye(3), 4, "n_components must be from 1 to 3, got 4"),
        (np.eye(3), 0, "n_components must be from 1 to 3, got 0"),
        (np.ones((4, 2)), 1, "must not be constant"),
        (np.ones((1, 2)), 1, "minimum of 2 is required"),
    ],
)
def test_input_that_makes_no_sense_is_refused(method, X, n_components, sentence):
    with pytest.raises(ValueError, match=sentence):
        LESSON[method](X, n_components)


def test_whitened_data_have_the_identity_as_covariance(X):
    Z = LESSON["whiten"](X)
    assert Z.shape == (len(X), linear_inputs.rank(X))
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(Z.T @ Z / len(X), np.eye(Z.shape[1]), atol=1e-7)


def test_whitened_data_are_those_of_scikit_learn_up_to_sign(X):
    Z, n = LESSON["whiten"](X), len(X)
    expected = PCA(Z.shape[1], whiten=True, svd_solver="full").fit_transform(X) * (n / (n - 1)) ** 0.5
    np.testing.assert_allclose(np.abs(Z), np.abs(expected), atol=1e-5)


def test_posterior_reconstruction_goes_to_the_projection():
    X = linear_inputs.make("random")
    projection = PCA(2).fit(X)
    projection = projection.inverse_transform(projection.transform(X))
    for noise_variance in (1e-2, 1e-4, 1e-6):
        distance = np.abs(LESSON["posterior_reconstruction"](X, 2, noise_variance) - projection).max()
        assert distance < 5 * noise_variance


def test_posterior_reconstruction_is_the_gaussian_conditional_mean():
    X = linear_inputs.make("random")
    pca, n, sigma2 = PCA(3).fit(X), len(X), 0.3
    variances = pca.explained_variance_ * (n - 1) / n
    signal = pca.components_.T * (variances - sigma2) @ pca.components_  # covariance of W h
    gain = signal @ np.linalg.inv(signal + sigma2 * np.eye(6))
    expected = X.mean(axis=0) + (X - X.mean(axis=0)) @ gain.T
    np.testing.assert_allclose(LESSON["posterior_reconstruction"](X, 3, sigma2), expected, atol=1e-9)


@pytest.mark.parametrize("noise_variance", [0.0, -1.0, 1e9, np.nan])
def test_noise_larger_than_the_variances_is_refused(noise_variance):
    with pytest.raises(ValueError, match="noise_variance must be above 0 and below"):
        LESSON["posterior_reconstruction"](linear_inputs.make("random"), 2, noise_variance)


def test_psnr_of_a_tenth_of_the_range_is_twenty_decibels():
    assert LESSON["psnr"](np.full((3, 4), 0.6), np.full((3, 4), 0.5)) == pytest.approx(20)


def _two_variances(first, second, turn=0.5, n=400):
    """Data with exactly these variances along two axes, turned."""
    columns, _ = np.linalg.qr(np.column_stack([np.ones(n), np.random.default_rng(0).standard_normal((n, 2))]))
    c, s = np.cos(turn), np.sin(turn)
    return n**0.5 * columns[:, 1:] * np.sqrt([first, second]) @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize("unit", [1e-8, 1, 1e8])
def test_power_iteration_says_when_it_has_not_converged(unit):
    X = unit * _two_variances(1.0005, 1)
    with pytest.warns(ConvergenceWarning, match="component 1 still moves by .* a step after 1000 steps"):
        LESSON["pca_power"](X, 1)


@pytest.mark.parametrize("unit", [1e-8, 1, 1e8])
@pytest.mark.parametrize("variances", [(1.05, 1), (1, 1e-6), (1, 0)])
def test_power_iteration_that_says_nothing_is_right(unit, variances):
    X = unit * _two_variances(*variances)
    with warnings.catch_warnings(action="error"):
        W = LESSON["pca_power"](X, 2)[1]
    np.testing.assert_allclose(np.abs(W[:, 0] @ LESSON["pca_svd"](X, 2)[1][:, 0]), 1, atol=1e-12)


def test_power_iteration_rests_where_no_variance_is_left():
    X, _ = linear_inputs.make_hard("sums of columns, far from zero")  # 8 columns, 3 directions, and rounding
    with warnings.catch_warnings(action="error"):
        _, W, variances = LESSON["pca_power"](X, 8)
    np.testing.assert_allclose(W.T @ W, np.eye(8), atol=1e-8)
    np.testing.assert_allclose(variances[3:], 0, atol=1e-12 * variances[0])


@pytest.mark.parametrize("name", ["whiten", "pca_svd"])
@pytest.mark.parametrize("constant", [0.1, 123456789.1, 0.1 + 1e-17 * np.arange(12).reshape(4, 3)])
def test_columns_that_vary_by_rounding_alone_are_constant(name, constant):
    arguments = () if name == "whiten" else (1,)
    with pytest.raises(ValueError, match="must not be constant"):
        LESSON[name](np.zeros((4, 3)) + constant, *arguments)


def test_whitened_data_are_scores_with_their_signs():
    X = linear_inputs.make("random")
    b, W, variances = LESSON["pca_svd"](X, 6)
    np.testing.assert_allclose(LESSON["whiten"](X), (X - b) @ W / np.sqrt(variances), atol=1e-9)
