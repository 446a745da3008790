"""What notebook 03 writes out, against scikit-learn and closed forms, on inputs harder than the lesson's."""

import itertools
import warnings

import numpy as np
import pytest
import scratch
from scipy.stats import kurtosis
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning

LESSON = scratch.load("03_ica")
N = 3000
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def _sources(kind, q=3, n=N, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "Laplace":
        return rng.laplace(size=(n, q)) / np.sqrt(2)
    if kind == "uniform":
        return rng.uniform(-np.sqrt(3), np.sqrt(3), (n, q))
    return rng.standard_normal((n, q))


def _mixing(d, q, seed=0):
    return np.random.default_rng([seed, 1]).standard_normal((d, q))


def _constant_column():
    X = _sources("Laplace", q=4) @ _mixing(4, 4).T
    X[:, 2] = 0.1
    return X


def _different_sources():
    kinds = (
        _sources("Laplace", q=1),
        _sources("uniform", q=1, seed=1),
        _sources("Laplace", q=1, seed=2) ** 3,
    )
    return np.column_stack(kinds) @ _mixing(3, 3).T


MIXTURES = {
    "random": lambda: _sources("Laplace") @ _mixing(3, 3).T,
    "different sources": _different_sources,
    "rank deficient": lambda: _sources("uniform") @ _mixing(5, 3).T,
    "constant column": _constant_column,
    "badly scaled": lambda: _sources("Laplace") @ _mixing(3, 3).T * [1e4, 1.0, 1e-3],
    "nearly singular mixing": lambda: _sources("uniform") @ (np.ones((3, 3)) + 1e-4 * _mixing(3, 3)).T,
    "far from zero": lambda: _sources("Laplace") @ _mixing(3, 3).T + 1e4,
}
MATRICES = MIXTURES | {
    "fewer samples than features": lambda: _sources("Gaussian", q=20, n=8) * np.geomspace(5, 0.1, 20),
    "integers": lambda: np.random.default_rng(0).integers(0, 10, (50, 4)),
}


@pytest.fixture(params=MATRICES)
def X(request):
    return MATRICES[request.param]()


@pytest.fixture(params=MIXTURES)
def mixture(request):
    return MIXTURES[request.param]()


def _rank(X):
    return np.linalg.matrix_rank(X - X.mean(axis=0))


def test_white_data_have_mean_zero_and_the_identity_as_covariance(X):
    Z, K = LESSON["whiten"](X)
    assert Z.shape == (len(X), _rank(X))
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(Z.T @ Z / len(X), np.eye(Z.shape[1]), atol=1e-6)
    np.testing.assert_array_equal(Z, (X - X.mean(axis=0)) @ K.T)


def test_white_data_are_those_of_scikit_learn_up_to_sign(X):
    Z, n = LESSON["whiten"](X)[0], len(X)
    expected = PCA(Z.shape[1], whiten=True, svd_solver="full").fit_transform(X) * (n / (n - 1)) ** 0.5
    np.testing.assert_allclose(np.abs(Z), np.abs(expected), atol=1e-6)


@pytest.mark.parametrize("q", [1, 2, 5])
def test_decorrelate_gives_the_symmetric_square_root(q):
    R = _mixing(q, q)
    result = LESSON["decorrelate"](R)
    np.testing.assert_allclose(result @ result.T, np.eye(q), atol=1e-12)
    values, vectors = np.linalg.eigh(R @ R.T)
    np.testing.assert_allclose(result, vectors / np.sqrt(values) @ vectors.T @ R, atol=1e-9)


def test_fastica_and_scikit_learn_agree_up_to_order_and_sign(mixture):
    Z, _ = LESSON["whiten"](mixture)
    R, n_iters = LESSON["fastica"](Z, np.random.default_rng(3))
    assert n_iters < 200
    library = FastICA(whiten=False, tol=1e-10, max_iter=500, random_state=0).fit(Z)
    between = np.abs(R @ library.components_.T)
    order = between.argmax(axis=1)
    np.testing.assert_allclose(between, np.eye(len(R))[order], atol=1e-5)


@pytest.mark.parametrize("kind", ["Laplace", "uniform"])
def test_fastica_recovers_the_sources_from_any_mixture(kind):
    H = _sources(kind, q=4)
    alone, _ = LESSON["fastica"](LESSON["whiten"](H)[0], np.random.default_rng(0))
    error = LESSON["amari_index"](alone @ LESSON["whiten"](H)[1])
    assert error < 0.05
    for seed in range(5):
        W = _mixing(4, 4, seed)
        Z, K = LESSON["whiten"](H @ W.T)
        R, _ = LESSON["fastica"](Z, np.random.default_rng(seed))
        assert LESSON["amari_index"](R @ K @ W) == pytest.approx(error, abs=1e-4)


def test_fastica_can_stop_half_way_between_very_skewed_sources():
    """What the lesson says of skewed sources: one start ends at the sources, another half-way."""
    H = (np.random.default_rng(0).random((N, 2)) < 0.2).astype(float)
    Z, K = LESSON["whiten"](H)
    runs = [LESSON["fastica"](Z, np.random.default_rng(seed)) for seed in range(20)]
    assert max(n_iters for _, n_iters in runs) < 200
    indices = np.array([LESSON["amari_index"](R @ K) for R, _ in runs])
    assert np.all((indices < 0.05) | (indices > 0.8))
    assert 0 < np.sum(indices > 0.8) < 20


@pytest.mark.parametrize("kind", ["Laplace", "uniform"])
def test_fastica_leaves_a_point_half_way_between_symmetric_sources(kind):
    Z, K = LESSON["whiten"](_sources(kind, q=2))
    for seed in range(20):
        R, _ = LESSON["fastica"](Z, np.random.default_rng(seed))
        assert LESSON["amari_index"](R @ K) < 0.05


@quiet
def test_fastica_returns_an_orthogonal_matrix(X):
    Z, _ = LESSON["whiten"](X)
    R, _ = LESSON["fastica"](Z, np.random.default_rng(0), n_iters=20)
    np.testing.assert_allclose(R @ R.T, np.eye(Z.shape[1]), atol=1e-10)


def test_fastica_says_when_it_has_not_converged():
    Z, _ = LESSON["whiten"](_sources("Gaussian", q=4))
    with pytest.warns(ConvergenceWarning, match="after 7 iterations a row still turns by .* degrees"):
        assert LESSON["fastica"](Z, np.random.default_rng(0), n_iters=7)[1] == 7


@pytest.mark.parametrize("kind", ["Laplace", "uniform"])
def test_infomax_says_when_it_has_not_converged_and_only_then(kind):
    Z, _ = LESSON["whiten"](_sources(kind) @ _mixing(3, 3).T)
    with warnings.catch_warnings(action="error"):
        R = LESSON["infomax"](Z, np.random.default_rng(0), kurtosis)
    Y = Z @ R.T
    phi = np.tanh(Y) if kind == "Laplace" else Y - np.tanh(Y)
    assert np.abs(phi.T @ Y / N - np.eye(3)).max() <= 1e-8
    with pytest.warns(ConvergenceWarning, match="after 1000 iterations 0.[0-9]+ is left of I - E"):
        LESSON["infomax"](Z, np.random.default_rng(0), kurtosis, learning_rate=1.0)


@pytest.mark.parametrize("name", ["fastica", "infomax"])
def test_a_seed_does_as_well_as_a_generator(name):
    Z, _ = LESSON["whiten"](_sources("Laplace"))
    np.testing.assert_array_equal(LESSON[name](Z, 3)[0], LESSON[name](Z, np.random.default_rng(3))[0])


def _amari_by_loops(P):
    P, q = np.abs(P), len(P)
    total = 0.0
    for i in range(q):
        total += sum(P[i, j] / max(P[i]) for j in range(q)) - 1
        total += sum(P[j, i] / max(P[:, i]) for j in range(q)) - 1
    return total / (2 * q * (q - 1))


@pytest.mark.parametrize("q", [2, 3, 7])
def test_amari_index_is_its_definition_and_ignores_order_sign_and_common_scale(q):
    rng = np.random.default_rng(q)
    P = rng.standard_normal((q, q))
    index = LESSON["amari_index"](P)
    assert index == pytest.approx(_amari_by_loops(P), rel=1e-12)
    changed = -3 * P[rng.permutation(q)][:, rng.permutation(q)] * rng.choice([-1, 1], q)
    assert LESSON["amari_index"](changed) == pytest.approx(index, rel=1e-12)


def test_amari_index_is_zero_for_scaled_permutations_and_only_for_them():
    rng = np.random.default_rng(0)
    P = np.eye(5)[rng.permutation(5)] * rng.uniform(0.01, 100, (5, 1)) * rng.choice([-1, 1], 5)
    assert LESSON["amari_index"](P) == 0
    P[P == 0] = 1e-6
    assert LESSON["amari_index"](P) > 0


def test_amari_index_of_equal_entries_is_one_and_of_a_rotation_its_tangent():
    assert LESSON["amari_index"]([[1, 1, 1], [-1, 1, 1], [1, -1, 1]]) == 1
    for angle in (0.0, 0.01, 0.3, 0.78):
        rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        assert LESSON["amari_index"](rotation) == pytest.approx(np.tan(angle), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_match_sources_finds_the_best_of_all_pairings(seed):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((100, 4))
    Y = H @ rng.standard_normal((4, 5)) + rng.standard_normal((100, 5))
    order, signs = LESSON["match_sources"](H, Y)
    correlation = np.corrcoef(H.T, Y.T)[:4, 4:]
    best = max(itertools.permutations(range(5), 4), key=lambda p: np.abs(correlation[range(4), p]).sum())
    assert tuple(order) == best
    np.testing.assert_array_equal(signs, np.sign(correlation[range(4), best]))


def test_match_sources_undoes_order_sign_and_scale():
    H = _sources("Laplace", q=4)
    Y = H[:, [2, 0, 3, 1]] * [-1, 1e-6, -1e6, 1]
    order, signs = LESSON["match_sources"](H, Y)
    matched = Y[:, order] * signs
    np.testing.assert_allclose(matched / matched.std(axis=0), H / H.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "sign_of"), [("Laplace", None), ("Laplace", kurtosis), ("uniform", kurtosis)]
)
def test_infomax_ends_at_a_point_of_rest_near_the_sources(kind, sign_of):
    W = _mixing(3, 3)
    Z, K = LESSON["whiten"](_sources(kind) @ W.T)
    R = LESSON["infomax"](Z, np.random.default_rng(0), sign_of, n_iters=400)
    Y = Z @ R.T
    phi = np.tanh(Y) if kind == "Laplace" else Y - np.tanh(Y)
    np.testing.assert_allclose(phi.T @ Y / N, np.eye(3), atol=1e-6)
    assert LESSON["amari_index"](R @ K @ W) < 0.03


@quiet
def test_infomax_steps_along_the_natural_gradient():
    Z, _ = LESSON["whiten"](_sources("Laplace"))
    start = LESSON["infomax"](Z, np.random.default_rng(0), n_iters=0)
    Y = Z @ start.T
    step = 0.1 * (np.eye(3) - np.tanh(Y).T @ Y / N) @ start
    result = LESSON["infomax"](Z, np.random.default_rng(0), learning_rate=0.1, n_iters=1)
    np.testing.assert_allclose(result, start + step, rtol=1e-12)


@quiet
def test_infomax_without_a_switch_mixes_uniform_sources():
    W = _mixing(4, 4)
    Z, K = LESSON["whiten"](_sources("uniform", q=4) @ W.T)
    R = LESSON["infomax"](Z, np.random.default_rng(0), n_iters=400)
    assert LESSON["amari_index"](R @ K @ W) > 0.6


@pytest.mark.parametrize("name", ["whiten", "fastica", "infomax"])
def test_input_is_not_modified(name):
    X = MIXTURES["random"]()
    argument = X if name == "whiten" else LESSON["whiten"](X)[0]
    before = argument.copy()
    LESSON[name](argument, *([] if name == "whiten" else [np.random.default_rng(0)]))
    np.testing.assert_array_equal(argument, before)


def test_amari_index_and_match_sources_do_not_modify_their_inputs():
    P, H = -np.eye(3), _sources("Laplace")
    LESSON["amari_index"](P)
    LESSON["match_sources"](H, P_before := -H)
    np.testing.assert_array_equal(P, -np.eye(3))
    np.testing.assert_array_equal(H, _sources("Laplace"))
    np.testing.assert_array_equal(P_before, -H)


RNG = np.random.default_rng(0)
REFUSED = {
    "one dimension": ("whiten", [np.zeros(5)], "Expected 2D array"),
    "nan": ("whiten", [np.array([[1.0, np.nan], [2.0, 3.0]])], "contains NaN"),
    "one row": ("whiten", [np.ones((1, 2))], "minimum of 2 is required"),
    "constant": ("whiten", [np.full((9, 2), 0.1)], "must not be constant"),
    "not white": ("fastica", [_sources("Laplace") * [1, 2, 3], RNG], "Z must be white"),
    "nan in Z": ("fastica", [np.full((4, 2), np.nan), RNG], "contains NaN"),
    "infomax, nan": ("infomax", [np.full((4, 2), np.nan), RNG], "contains NaN"),
    "not square": ("amari_index", [np.ones((2, 3))], "P must be square"),
    "one source": ("amari_index", [np.ones((1, 1))], "at least two rows"),
    "a row of zeros": ("amari_index", [np.diag([1.0, 0.0])], "no row or column of zeros"),
    "too few estimates": ("match_sources", [np.eye(4), np.eye(4)[:, :2]], "at least as many columns"),
    "other length": ("match_sources", [np.eye(4), np.eye(5)], "as many rows as H"),
    "all large and constant": ("whiten", [np.full((9, 2), 123456789.1)], "must not be constant"),
    "constant but for rounding": (
        "match_sources",
        [np.eye(3), np.eye(3) * 1e-17 + 0.1],
        "is constant",
    ),
    "constant estimate": ("match_sources", [np.eye(3), np.ones((3, 3))], "is constant"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_makes_no_sense_is_refused(case):
    name, arguments, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        LESSON[name](*arguments)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_infomax_that_diverges_says_so():
    Z, _ = LESSON["whiten"](_sources("Laplace"))
    with pytest.raises(ValueError, match="take a smaller learning_rate"):
        LESSON["infomax"](Z, np.random.default_rng(0), learning_rate=1e6)
