"""What notebook 01 writes out, against scikit-learn and closed forms, on inputs harder than the lesson's."""

import warnings

import numpy as np
import pytest
import scratch
from scipy import stats
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

LESSON = scratch.load("01_linear_factor_models")
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NOISE_OF_DIGITS = {2: 13.853948, 10: 5.824351, 20: 2.886195, 40: 0.590590}  # by number of factors


def _random(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3)) @ rng.standard_normal((3, d)) + rng.standard_normal((n, d)) + 5.0


def _rank_deficient():
    X = _random(60, 5)
    return np.hstack([X, X[:, :2] + X[:, 2:4]])


def _with_constant_column():
    X = _random(60, 6)
    X[:, 2] = 0.1
    return X


INPUTS = {
    "random": lambda: _random(80, 7),
    "rank-deficient": _rank_deficient,
    "fewer samples than features": lambda: _random(6, 9),
    "constant column": _with_constant_column,
    "badly scaled": lambda: _random(80, 6) * 10.0 ** np.arange(-3, 3),
    "large offset": lambda: _random(80, 6) + 1e6,
}


def _loglik(X, b, W, psi):
    """In units in which each feature of the model has variance 1, for SciPy takes other units for singular."""
    C = W @ W.T + np.diag(np.broadcast_to(psi, len(W)))
    units = np.sqrt(np.diag(C))
    return (
        stats.multivariate_normal(b / units, C / np.outer(units, units)).logpdf(X / units).mean()
        - np.log(units).sum()
    )


@pytest.mark.parametrize("prior", ["gaussian", "laplace", "uniform", "student-t"])
def test_factors_are_independent_with_variance_one(prior):
    H = LESSON["PRIORS"][prior](np.random.default_rng(1), (200_000, 3))
    tolerance = 0.1 if prior == "student-t" else 0.02  # its variance has no finite variance
    np.testing.assert_allclose(H.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(H.T), np.eye(3), atol=tolerance)


@pytest.mark.parametrize(
    ("prior", "cdf"), [("laplace", stats.laplace(scale=2**-0.5).cdf), ("gaussian", stats.norm.cdf)]
)
def test_factors_have_the_named_distribution(prior, cdf):
    H = LESSON["PRIORS"][prior](np.random.default_rng(1), 5000)
    assert stats.kstest(H, cdf).pvalue > 1e-3


def test_samples_are_decoder_times_factors_plus_offset_plus_noise():
    W, b, psi = (
        np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]]),
        np.array([1.0, -2.0, 0.5]),
        np.array([0.1, 1.0, 4.0]),
    )
    X, H = LESSON["sample_lfm"](W, b, "laplace", psi, 100_000, np.random.default_rng(0))
    noise = X - H @ W.T - b
    assert X.shape == (100_000, 3)
    assert H.shape == (100_000, 2)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(noise.T), np.diag(psi), atol=0.1)
    np.testing.assert_allclose(np.cov(X.T), W @ W.T + np.diag(psi), atol=0.3)
    without_noise, H = LESSON["sample_lfm"](W, b, "uniform", 0, 5, np.random.default_rng(0))
    np.testing.assert_allclose(without_noise, H @ W.T + b, rtol=1e-12)


def test_unknown_prior_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"prior must be one of gaussian, .*, got 'cauchy'$"):
        LESSON["sample_lfm"](np.ones((2, 1)), 0, "cauchy", 1, 4, np.random.default_rng(0))


def test_same_generator_gives_same_samples():
    W = np.ones((2, 1))
    draws = [LESSON["sample_lfm"](W, 0, "gaussian", 1, 4, np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("scales", [np.ones(4), 10.0 ** np.array([-4, 0, 3, 1])])
def test_mean_loglik_equals_scipy(scales):
    X = _random(50, 4) * scales
    C = np.cov(X.T) + np.diag(scales**2)
    ours = LESSON["mean_loglik"](X, X.mean(axis=0), C)
    theirs = _loglik(X, X.mean(axis=0), np.linalg.cholesky(C), 0)
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_singular_covariance_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="C must be positive definite") as error:
        LESSON["mean_loglik"](np.ones((3, 2)), np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("name", INPUTS)
def test_closed_form_equals_scikit_learn(name, n_components):
    X = INPUTS[name]()
    n = len(X)
    before = X.copy()
    b, W, sigma2 = LESSON["ppca_ml"](X, n_components)
    np.testing.assert_array_equal(X, before)
    library = PCA(n_components, svd_solver="full").fit(X)
    np.testing.assert_allclose(b, library.mean_, rtol=1e-12)
    if name != "fewer samples than features":  # there scikit-learn averages over the n sample directions only
        ours = (W @ W.T + sigma2 * np.eye(len(b))) * n / (n - 1)
        theirs = library.get_covariance()
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10 * np.abs(theirs).max())
        assert sigma2 * n / (n - 1) == pytest.approx(library.noise_variance_, rel=1e-8)
    lengths = (W**2).sum(axis=0)
    np.testing.assert_allclose(lengths, library.explained_variance_ * (n - 1) / n - sigma2, rtol=1e-8)
    cosines = np.abs(np.sum(library.components_ * (W / np.sqrt(lengths)).T, axis=1))
    np.testing.assert_allclose(cosines, 1, rtol=1e-8)


@pytest.mark.parametrize("name", INPUTS)
def test_closed_form_is_the_maximum(name):
    """By the formula for it, and by steps away in W, in the noise and in the offset."""
    X = INPUTS[name]()
    b, W, sigma2 = LESSON["ppca_ml"](X, 2)
    d = len(b)
    eigenvalues = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    sigma2_by_definition = eigenvalues[2:].clip(0).mean()
    assert sigma2 == pytest.approx(sigma2_by_definition, rel=1e-6)
    formula = -0.5 * (d * np.log(2 * np.pi) + np.log(eigenvalues[:2]).sum() + (d - 2) * np.log(sigma2) + d)
    best = LESSON["mean_loglik"](X, b, W @ W.T + sigma2 * np.eye(d))
    assert best == pytest.approx(formula, abs=1e-6)
    rng = np.random.default_rng(0)
    for step in (0.01, -0.01):
        other = W + step * np.abs(W).max() * rng.standard_normal(W.shape)
        assert LESSON["mean_loglik"](X, b, other @ other.T + sigma2 * np.eye(d)) < best
        assert LESSON["mean_loglik"](X, b, W @ W.T + (1 + step) * sigma2 * np.eye(d)) < best
        assert LESSON["mean_loglik"](X, b + step * np.sqrt(sigma2), W @ W.T + sigma2 * np.eye(d)) < best


@pytest.mark.parametrize("n_components", NOISE_OF_DIGITS)
def test_noise_of_the_digits(n_components):
    _, W, sigma2 = LESSON["ppca_ml"](load_digits().data, n_components)
    assert sigma2 == pytest.approx(NOISE_OF_DIGITS[n_components], abs=1e-6)
    assert (np.take_along_axis(W, np.abs(W).argmax(axis=0)[None], axis=0) > 0).all()


def test_equal_eigenvalues_give_no_nan():
    X = 0.3 * np.vstack([np.eye(4), -np.eye(4)])  # their mean comes out a rounding error above them
    _, W, sigma2 = LESSON["ppca_ml"](X, 1)
    assert np.isfinite(W).all()
    np.testing.assert_allclose(W @ W.T + sigma2 * np.eye(4), 0.09 / 4 * np.eye(4), atol=1e-12)


@quiet
@pytest.mark.parametrize("name", INPUTS)
def test_em_reaches_the_closed_form(name):
    X = INPUTS[name]()
    before = X.copy()
    b, W, sigma2, logliks = LESSON["ppca_em"](X, 2, np.random.default_rng(0), n_iters=1000, tol=1e-12)
    np.testing.assert_array_equal(X, before)
    b_ml, W_ml, sigma2_ml = LESSON["ppca_ml"](X, 2)
    np.testing.assert_allclose(b, b_ml)
    assert sigma2 == pytest.approx(sigma2_ml, rel=1e-4)
    assert subspace_angles(W, W_ml).max() < 1e-3
    # Where the noise is small against the factors, the lengths of W's columns come last, and slowly.
    tolerance, gap = (0.2, 0.03) if name == "badly scaled" else (1e-3, 1e-6)
    np.testing.assert_allclose(W @ W.T, W_ml @ W_ml.T, atol=tolerance * np.abs(W_ml @ W_ml.T).max())
    assert logliks[-1] == pytest.approx(_loglik(X, b_ml, W_ml, sigma2_ml), abs=gap)
    assert np.diff(logliks).min() > -1e-8


@pytest.mark.parametrize("equal_noise", [True, False])
def test_step_of_em_with_equal_noise_is_that_of_tipping_and_bishop(equal_noise):
    """Their update with the matrix M; for unequal noise, the posterior by conditioning on all of x."""
    X, rng = _random(50, 6), np.random.default_rng(0)
    S, W = np.cov(X.T, bias=True), rng.standard_normal((6, 2))
    psi = np.full(6, 0.7) if equal_noise else rng.uniform(0.1, 2, 6)
    before = S.copy(), W.copy(), psi.copy()
    W_new, psi_new = LESSON["em_step"](S, W, psi)
    for array, copy in zip((S, W, psi), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    if equal_noise:
        M_inverse = np.linalg.inv(W.T @ W + 0.7 * np.eye(2))
        expected = S @ W @ np.linalg.inv(0.7 * np.eye(2) + M_inverse @ W.T @ S @ W)
        sigma2 = np.trace(S - S @ W @ M_inverse @ expected.T) / 6
        assert psi_new.mean() == pytest.approx(sigma2, rel=1e-10)
    else:
        B = W.T @ np.linalg.inv(W @ W.T + np.diag(psi))
        moment = np.eye(2) - B @ W + B @ S @ B.T
        expected = S @ B.T @ np.linalg.inv(moment)
        residual = S - 2 * expected @ B @ S + expected @ moment @ expected.T
        np.testing.assert_allclose(psi_new, np.diag(residual), rtol=1e-10)
    np.testing.assert_allclose(W_new, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["random", "badly scaled", "large offset"])
@pytest.mark.parametrize("seed", [0, 1])
def test_factor_analysis_equals_scikit_learn(name, seed):
    scales = {"random": 1.0, "badly scaled": 10.0 ** np.linspace(-3, 3, 8), "large offset": 1.0}[name]
    rng = np.random.default_rng(seed)
    W_true, noise = rng.standard_normal((8, 2)), rng.uniform(0.5, 1.5, 8)
    X = rng.standard_normal((400, 2)) @ W_true.T + noise * rng.standard_normal((400, 8))
    X = X * scales + (1e6 if name == "large offset" else 0)
    before = X.copy()
    b, W, psi, logliks = LESSON["fa_em"](X, 2, rng, n_iters=5000)
    np.testing.assert_array_equal(X, before)
    # scikit-learn adds 1e-12 to each scale, so it gets the data in units in which that is nothing
    library = FactorAnalysis(2, svd_method="lapack", tol=1e-8, max_iter=5000).fit((X - b) / scales)
    theirs = library.score((X - b) / scales) - np.log(np.broadcast_to(scales, 8)).sum()
    assert logliks[-1] == pytest.approx(theirs, abs=1e-4)
    assert logliks[-1] == pytest.approx(_loglik(X, b, W, psi), abs=1e-6)
    assert np.diff(logliks).min() > -1e-8
    np.testing.assert_allclose(psi, library.noise_variance_ * np.broadcast_to(scales, 8) ** 2, rtol=1e-2)
    W_unscaled = W / np.broadcast_to(scales, 8)[:, None]
    np.testing.assert_allclose(
        W_unscaled @ W_unscaled.T, library.components_.T @ library.components_, atol=1e-2
    )


def _loglik_of_closed_form(X, q):
    b, W, sigma2 = LESSON["ppca_ml"](X, q)
    return LESSON["mean_loglik"](X, b, W @ W.T + sigma2 * np.eye(len(b)))


def _of_three_factors(n, d, noise, seed):
    rng = np.random.default_rng([seed, d])
    W = rng.standard_normal((d, 3))
    return [rng.standard_normal((n, 3)) @ W.T + noise * rng.standard_normal((n, d)) for _ in range(2)]


@quiet
@pytest.mark.parametrize("noise", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("seed", range(2))
def test_factor_analysis_is_not_below_its_special_case_where_noise_is_small(noise, seed):
    train, _ = _of_three_factors(300, 10, noise, seed)
    logliks = LESSON["fa_em"](train, 3, np.random.default_rng(0))[-1]
    assert logliks[-1] >= _loglik_of_closed_form(train, 3)
    library = FactorAnalysis(3, svd_method="lapack", tol=1e-8, max_iter=5000).fit(train)
    assert logliks[-1] == pytest.approx(library.score(train), abs=1e-3)


@quiet
@pytest.mark.parametrize("n_iters", [1, 300])
@pytest.mark.parametrize("name", INPUTS)
def test_factor_analysis_is_not_below_its_special_case(name, n_iters):
    X = INPUTS[name]()
    X = X[:, X.std(axis=0) > 1e-9]  # no constant feature
    logliks = LESSON["fa_em"](X, 2, np.random.default_rng(0), n_iters=n_iters)[-1]
    assert logliks[-1] >= _loglik_of_closed_form(X, 2) - 1e-9
    assert (np.diff(logliks) > -1e-7).all()


@quiet
@pytest.mark.parametrize("n_iters", [1, 300])
@pytest.mark.parametrize("noise", [0.05, 5e-4])  # the second is below a millionth of the variances
def test_factor_analysis_begins_no_lower_than_its_special_case(noise, n_iters):
    X, _ = _of_three_factors(300, 10, noise, 0)
    logliks = LESSON["fa_em"](X, 3, np.random.default_rng(0), n_iters=n_iters)[-1]
    assert logliks[-1] >= _loglik_of_closed_form(X, 3)


@quiet
@pytest.mark.parametrize(("n", "d", "seed"), [(500, 15, 0), (500, 15, 1), (300, 10, 0), (200, 8, 2)])
def test_held_out_likelihood_counts_three_factors_where_noise_is_small(n, d, seed):
    train, test = _of_three_factors(n, d, 0.05, seed)
    held_out = []
    for q in range(1, 8):
        b, W, psi, _ = LESSON["fa_em"](train, q, np.random.default_rng(0))
        held_out.append(LESSON["mean_loglik"](test, b, W @ W.T + np.diag(psi)))
    assert 1 + np.argmax(held_out) == 3


@pytest.mark.parametrize("fit", ["ppca_em", "fa_em"])
def test_em_says_when_it_has_not_converged(fit):
    X, _ = _of_three_factors(300, 10, 0.05, 0)
    with pytest.warns(ConvergenceWarning, match="EM has not converged: step 3 still changed") as said:
        *_, logliks = LESSON[fit](X, 3, np.random.default_rng(0), n_iters=3)
    assert len(logliks) == 3
    assert said[0].filename == __file__


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("fit", ["ppca_em", "fa_em"])
def test_em_stops_when_little_is_left_to_gain_in_whatever_units(fit, unit):
    X = _random(200, 6)
    with warnings.catch_warnings(action="error"):
        *_, logliks = LESSON[fit](unit * X, 2, np.random.default_rng(0), n_iters=5000, tol=1e-9)
    with warnings.catch_warnings(action="ignore"):
        *_, further = LESSON[fit](unit * X, 2, np.random.default_rng(0), n_iters=5000, tol=0)
    assert 5 < len(logliks) < 2000
    assert further[-1] - logliks[-1] < 2e-9
    assert len(logliks) == pytest.approx(
        len(LESSON[fit](X, 2, np.random.default_rng(0), n_iters=5000, tol=1e-9)[-1]), rel=0.1
    )


def test_a_seed_does_as_well_as_a_generator():
    W = np.ones((2, 1))
    draws = [LESSON["sample_lfm"](W, 0, "laplace", 1, 4, rng)[0] for rng in (3, np.random.default_rng(3))]
    np.testing.assert_array_equal(*draws)
    X = _random(50, 4)
    fits = [LESSON["ppca_em"](X, 1, rng)[1] for rng in (3, np.random.default_rng(3))]
    np.testing.assert_array_equal(*fits)


@quiet
@pytest.mark.parametrize("name", ["rank-deficient", "fewer samples than features"])
def test_factor_analysis_stays_finite_where_the_likelihood_has_no_bound(name):
    X = INPUTS[name]()
    _, W, psi, logliks = LESSON["fa_em"](X, 2, np.random.default_rng(0), n_iters=500)
    assert np.isfinite(W).all()
    assert (psi >= 0.99e-6 * X.var(axis=0)).all()
    assert np.diff(logliks).min() > -1e-7


def test_factor_analysis_refuses_a_constant_feature_in_a_sentence():
    X = _with_constant_column()
    for constant in (0.1, 123456789.1, 0.1 + 1e-17 * np.arange(len(X)) % 3):
        X[:, 2] = constant
        with pytest.raises(ValueError, match="a feature is constant") as error:
            LESSON["fa_em"](X, 2, np.random.default_rng(0))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("fit", ["ppca_ml", "ppca_em", "fa_em"])
@pytest.mark.parametrize(
    ("X", "n_components", "sentence"),
    [
        (_random(20, 5), 0, "at least 1 and below the data's rank, 5, got 0"),
        (_random(20, 5), 5, "below the data's rank, 5, got 5"),
        (_rank_deficient(), 5, "below the data's rank, 5, got 5"),
        (_random(4, 9), 3, "below the data's rank, 3, got 3"),
        (np.ones((5, 3)), 1, "below the data's rank, 0, got 1"),
        (np.full((5, 3), np.nan), 1, "contains NaN"),
        (np.arange(5.0), 1, "Expected 2D array"),
        (np.ones((1, 3)), 1, "minimum of 2 is required"),
        (np.full((5, 3), 123456789.1), 1, "below the data's rank, 0, got 1"),
    ],
)
def test_bad_input_is_refused(fit, X, n_components, sentence):
    generator = () if fit == "ppca_ml" else (np.random.default_rng(0),)
    with pytest.raises(ValueError, match=sentence):
        LESSON[fit](X, n_components, *generator)
