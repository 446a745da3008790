"""Sparse codes: compared with coordinate descent, least angle regression and SPAMS, also on hard inputs."""

import warnings

import linear_inputs
import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning

from labutils.factor_models import LISTA, fista, ista, kkt_violation, lasso_objective, sparse_coding

pytestmark = [
    pytest.mark.filterwarnings("error::RuntimeWarning"),
    pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning"),
]
SOLVERS = {"ista": ista, "fista": fista}
both = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def _problem(seed=0, n_samples=60, n_components=40, n_features=20):
    """Sparse combinations of unit-norm atoms with a little noise; more atoms than features."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((n_components, n_features))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    code = rng.standard_normal((n_samples, n_components)) * (rng.random((n_samples, n_components)) < 0.1)
    return code @ dictionary + 0.02 * rng.standard_normal((n_samples, n_features)), dictionary


def _duplicates(rng, X, dictionary):
    return X, np.vstack([dictionary, dictionary[::2], -dictionary[:3]])


def _rank_deficient(rng, X, dictionary):
    return X, dictionary[:, :3] @ rng.standard_normal((3, X.shape[1]))


def _few_atoms(rng, X, dictionary):
    return X, dictionary[:5]


def _atoms_of_all_lengths(rng, X, dictionary):
    return X, dictionary * np.geomspace(1e-3, 1e3, len(dictionary))[:, None]


def _features_of_all_scales(rng, X, dictionary):
    scale = np.geomspace(1e-2, 1e2, X.shape[1])
    return X * scale, dictionary * scale


def _similar_atoms(rng, X, dictionary):
    return X + 0.2, dictionary + 0.2


def _zero_atom_and_sample(rng, X, dictionary):
    return np.vstack([X, np.zeros(X.shape[1])]), np.vstack([np.zeros(X.shape[1]), dictionary])


HARD = {
    "duplicates": _duplicates,
    "rank deficient": _rank_deficient,
    "few atoms": _few_atoms,
    "atoms of all lengths": _atoms_of_all_lengths,
    "features of all scales": _features_of_all_scales,
    "similar atoms": _similar_atoms,
    "zero atom and sample": _zero_atom_and_sample,
}


def _hard(name):
    if name in linear_inputs.MAKERS:
        X = linear_inputs.make(name)
        return X, np.random.default_rng(1).standard_normal((12, X.shape[1]))
    return HARD[name](np.random.default_rng(1), *_problem())


def _oracle(X, dictionary, alpha, algorithm="lasso_cd"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a tolerance of 1e-8 times the energy
        return sparse_encode(X, dictionary, alpha=alpha, algorithm=algorithm, max_iter=100_000)


def _alpha_max(X, dictionary):
    return np.abs(X @ dictionary.T).max()


def _relative_gap(X, dictionary, alpha, code, best):
    """Excess of the objective over that of another code, relative to it, for each sample."""
    least = lasso_objective(X, dictionary, alpha, best)
    excess = lasso_objective(X, dictionary, alpha, code) - least
    return np.divide(excess, least, out=excess.copy(), where=least > 0)


# ---------------------------------------------------------------------------------------------------------
# the optimum


@both
@pytest.mark.parametrize("algorithm", ["lasso_cd", "lasso_lars"])
@pytest.mark.parametrize("alpha", [0.03, 0.3])
def test_codes_are_those_of_scikit_learn(solve, algorithm, alpha):
    X, dictionary = _problem()
    code = solve(X, dictionary, alpha, tol=1e-10, max_iter=20_000)
    best = _oracle(X, dictionary, alpha, algorithm)
    assert 0 < (code != 0).mean() < 0.5
    assert np.abs(_relative_gap(X, dictionary, alpha, code, best)).max() < 1e-7
    np.testing.assert_allclose(code, best, atol=1e-4)


@both
def test_codes_are_those_of_spams(solve):
    spams = pytest.importorskip("spams", reason="SPAMS has wheels for Linux on x86-64 only")
    X, dictionary = _problem()
    best = spams.lasso(np.asfortranarray(X.T), D=np.asfortranarray(dictionary.T), lambda1=0.1, mode=2)
    code = solve(X, dictionary, 0.1, tol=1e-10, max_iter=20_000)
    assert np.abs(_relative_gap(X, dictionary, 0.1, code, best.T.toarray())).max() < 1e-9
    np.testing.assert_allclose(code, best.T.toarray(), atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("name", [*HARD, *linear_inputs.MAKERS])
def test_fista_reaches_the_optimum_of_hard_inputs(name, share):
    X, dictionary = _hard(name)
    alpha = share * _alpha_max(X, dictionary)
    code = fista(X, dictionary, alpha, tol=1e-9, max_iter=20_000)
    assert _relative_gap(X, dictionary, alpha, code, _oracle(X, dictionary, alpha)).max() < 1e-8
    assert kkt_violation(X, dictionary, alpha, code).max() < 1e-3 * alpha


@pytest.mark.parametrize("name", [*HARD, *linear_inputs.MAKERS])
def test_ista_reaches_the_optimum_of_hard_inputs(name):
    X, dictionary = _hard(name)
    alpha = 0.5 * _alpha_max(X, dictionary)
    code = ista(X, dictionary, alpha, tol=1e-7, max_iter=20_000)
    assert _relative_gap(X, dictionary, alpha, code, _oracle(X, dictionary, alpha)).max() < 1e-6


@both
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4, 1e-6])
def test_objective_is_within_the_tolerance(solve, tol):
    for X, dictionary in (_problem(), _hard("similar atoms")):
        alpha = 0.05 * _alpha_max(X, dictionary)
        least = lasso_objective(X, dictionary, alpha, fista(X, dictionary, alpha, tol=1e-11, max_iter=20_000))
        code = solve(X, dictionary, alpha, tol=tol, max_iter=20_000)
        reached = lasso_objective(X, dictionary, alpha, code)
        assert (reached - least <= tol * reached).all()
        assert np.median(reached - least) > 1e-3 * tol**2 * np.median(reached), "it stops where it may"


@both
def test_orthonormal_atoms_have_a_closed_form(solve):
    rng = np.random.default_rng(0)
    dictionary = np.linalg.qr(rng.standard_normal((8, 8)))[0][:5]
    X = rng.standard_normal((20, 8))
    inner = X @ dictionary.T
    expected = np.sign(inner) * np.maximum(np.abs(inner) - 0.4, 0)
    np.testing.assert_allclose(solve(X, dictionary, 0.4, tol=1e-14), expected, atol=1e-7)
    one = dictionary[:1] * 3
    np.testing.assert_allclose(
        solve(X, one, 0.4, tol=1e-14),
        np.sign(inner[:, :1]) * np.maximum(3 * np.abs(inner[:, :1]) - 0.4, 0) / 9,
        atol=1e-12,
    )


@both
def test_codes_are_zero_from_alpha_max_on(solve):
    X, dictionary = _problem()
    alpha = _alpha_max(X, dictionary)
    assert not solve(X, dictionary, alpha * (1 + 1e-9)).any()
    assert not solve(X, dictionary, 1e9).any()
    assert np.count_nonzero(solve(X, dictionary, alpha * (1 - 1e-3))) == 1


@both
@pytest.mark.parametrize("n_components", [5, 40])
def test_without_penalty_it_is_least_squares(solve, n_components):
    X, dictionary = _problem(n_components=n_components)
    code = solve(X, dictionary, 0, tol=1e-9, max_iter=20_000)
    best = np.linalg.lstsq(dictionary.T, X.T)[0].T
    np.testing.assert_allclose(code @ dictionary, best @ dictionary, atol=1e-6)
    assert kkt_violation(X, dictionary, 0, code).max() < 1e-6


# ---------------------------------------------------------------------------------------------------------
# the way there


def _textbook(X, dictionary, alpha, n_steps):
    """ISTA, sample by sample, as Beck and Teboulle write it."""
    step = 1 / np.linalg.norm(dictionary, 2) ** 2
    code = np.zeros((len(X), len(dictionary)))
    for x, h in zip(X, code, strict=True):
        for _ in range(n_steps):
            z = h - step * dictionary @ (h @ dictionary - x)
            h[:] = np.sign(z) * np.maximum(np.abs(z) - step * alpha, 0)
    return code


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 50])
def test_ista_makes_the_steps_of_the_textbook(n_steps):
    for X, dictionary in (_problem(n_samples=10), _hard("atoms of all lengths")):
        code = ista(X, dictionary, 0.1, max_iter=n_steps, tol=0)
        np.testing.assert_allclose(code, _textbook(X, dictionary, 0.1, n_steps), rtol=1e-9, atol=1e-12)


def test_fista_is_faster_than_ista():
    X, dictionary = _hard("similar atoms")
    alpha = 0.02 * _alpha_max(X, dictionary)
    best = fista(X, dictionary, alpha, tol=1e-11, max_iter=20_000)
    gaps = [
        _relative_gap(X, dictionary, alpha, s(X, dictionary, alpha, max_iter=200, tol=0), best)
        for s in (ista, fista)
    ]
    assert np.median(gaps[1]) < 0.1 * np.median(gaps[0])


@pytest.mark.parametrize("seed", range(3))
def test_no_code_is_worse_than_its_start(seed):
    """Steps that grew too long would let the objective soar where the atoms have one direction in common."""
    rng = np.random.default_rng(seed)
    X, dictionary = rng.standard_normal((20, 40)), 1 + 0.05 * rng.standard_normal((80, 40))
    alpha = 0.01 * _alpha_max(X, dictionary)
    for start in (
        np.zeros((20, 80)),
        rng.standard_normal((20, 80)),
        ista(X, dictionary, alpha, max_iter=99, tol=0),
    ):
        highest = 1.01 * lasso_objective(X, dictionary, alpha, start)
        for n_steps in range(1, 160, 3):
            code = fista(X, dictionary, alpha, init=start, max_iter=n_steps, tol=0)
            assert (lasso_objective(X, dictionary, alpha, code) <= highest).all()


@both
def test_a_good_start_saves_steps(solve):
    X, dictionary = _problem()
    best = fista(X, dictionary, 0.1, tol=1e-11, max_iter=20_000)
    with pytest.warns(ConvergenceWarning):
        solve(X, dictionary, 0.1, max_iter=3)
    np.testing.assert_allclose(solve(X, dictionary, 0.1, init=best, max_iter=3), best, atol=1e-6)
    far = np.random.default_rng(0).standard_normal(best.shape)
    np.testing.assert_allclose(
        solve(X, dictionary, 0.1, init=far, tol=1e-10, max_iter=20_000), best, atol=1e-4
    )


@both
def test_samples_that_are_not_done_are_counted(solve):
    X, dictionary = _problem()
    X[:20] = 0
    with pytest.warns(
        ConvergenceWarning, match="40 of 60 samples did not reach tol=1e-08 within max_iter=2 steps"
    ):
        solve(X, dictionary, 0.01, max_iter=2, tol=1e-8)
    solve(X, dictionary, 0.01, max_iter=2, tol=0)  # as many steps as asked for, and no word


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_code_depends_on_its_own_sample_only(solve, dtype, monkeypatch):
    X, dictionary = (a.astype(dtype) for a in _problem(n_samples=90))
    X[::7] *= 1e-3  # done at once, or late
    X[::11] *= 3
    settings = {"tol": 1e-10 if dtype == np.float64 else 1e-4, "max_iter": 50_000}
    together = solve(X, dictionary, 0.05, **settings)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float64 else {"rtol": 1e-2, "atol": 1e-2}
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(solve(X[order], dictionary, 0.05, **settings), together[order], **tolerance)
    for size in (1, 2**13, 2**30):  # 16 samples, a few dozen, all
        monkeypatch.setattr(sparse_coding, "_BLOCK_BYTES", size)
        np.testing.assert_allclose(solve(X, dictionary, 0.05, **settings), together, **tolerance)
    for i in range(0, len(X), 10):
        np.testing.assert_allclose(solve(X[[i]], dictionary, 0.05, **settings)[0], together[i], **tolerance)


# ---------------------------------------------------------------------------------------------------------
# what goes in and comes out


@both
def test_float32_stays_float32(solve):
    X, dictionary = _problem()
    best = solve(X, dictionary, 0.1, tol=1e-10, max_iter=20_000)
    code = solve(X.astype(np.float32), dictionary, 0.1, tol=1e-5, max_iter=20_000)
    assert code.dtype == np.float32
    assert best.dtype == np.float64
    assert _relative_gap(X, dictionary, 0.1, code, best).max() < 1e-5
    np.testing.assert_allclose(code, best, atol=1e-3)
    assert solve(X, dictionary.astype(np.float32), 0.1, tol=1e-2).dtype == np.float64
    assert solve((10 * X).astype(int), dictionary, 1.0, tol=1e-2).dtype == np.float64


@both
@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(np.float32, 2.0**-90), (np.float32, 2.0**90), (float, 2.0**-700), (float, 2.0**700)],
)
def test_tiny_and_huge_numbers_have_the_codes_of_their_like(solve, dtype, factor):
    X, dictionary = (a.astype(dtype) for a in _problem())
    code = solve(X, dictionary, 0.1, max_iter=5000)
    scaled = solve(X * dtype(factor), dictionary, 0.1 * factor, max_iter=5000)
    np.testing.assert_allclose(scaled / dtype(factor), code, rtol=1e-5, atol=1e-6)


@both
def test_inputs_are_not_modified(solve):
    X, dictionary = _problem()
    init = np.random.default_rng(0).standard_normal((len(X), len(dictionary)))
    for order in "CF":
        arrays = [np.array(a, order=order) for a in (X, dictionary, init)]
        for a in arrays:
            a.flags.writeable = False
        code = solve(arrays[0], arrays[1], 0.1, init=arrays[2], tol=1e-2)
        for a, before in zip(arrays, (X, dictionary, init), strict=True):
            np.testing.assert_array_equal(a, before)
            assert not np.shares_memory(code, a)


@both
def test_shapes(solve):
    X, dictionary = _problem()
    assert solve(X[:0], dictionary, 0.1).shape == (0, 40)
    assert solve(X[:0], dictionary, 0.1, init=np.zeros((0, 40))).shape == (0, 40)
    assert solve(X[:1].tolist(), dictionary.tolist(), 0.1).shape == (1, 40)
    assert solve(X, dictionary[:1], 0.1).shape == (60, 1)
    assert solve(X[:, :1], np.ones((1, 1)), 0.1).shape == (60, 1)
    assert not solve(np.zeros((3, 20)), dictionary, 0.0).any()
    assert not solve(X, np.zeros((4, 20)), 0.1).any()
    assert not solve(X, np.zeros((4, 20)), 0.0).any()


OK = {"X": np.ones((3, 2)), "dictionary": np.ones((4, 2)), "alpha": 0.1}


@both
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"X": [[1.0, np.nan]]}, "X must be finite"),
        ({"X": [[1.0, np.inf]]}, "X must be finite"),
        ({"X": np.ones(2)}, r"X must be a table of real numbers of the shape \(n_samples, n_features\), got the shape \(2,\)"),
        ({"X": np.ones((3, 2), complex)}, "X must be a table of real numbers"),
        ({"X": [["a", "b"]]}, "X must be a table of real numbers"),
        ({"X": np.ones((3, 5))}, "X must have as many features as the atoms of dictionary, 2, got 5"),
        ({"dictionary": np.ones(2)}, "dictionary must be a table of real numbers"),
        ({"dictionary": np.ones((0, 2))}, "dictionary must hold at least one atom"),
        ({"dictionary": np.ones((4, 0)), "X": np.ones((3, 0))}, "dictionary must hold at least one atom"),
        ({"dictionary": np.full((4, 2), np.nan)}, "dictionary must be finite"),
        ({"alpha": -1}, "alpha must be a finite number of at least 0, got -1"),
        ({"alpha": np.nan}, "alpha must be a finite number"),
        ({"alpha": np.inf}, "alpha must be a finite number"),
        ({"alpha": "1"}, "alpha must be a finite number of at least 0, got '1'"),
        ({"alpha": None}, "alpha must be a finite number"),
        ({"init": np.ones((3, 2))}, r"init must have the shape \(n_samples, n_components\) = \(3, 4\), got \(3, 2\)"),
        ({"init": np.full((3, 4), np.nan)}, "init must be finite"),
        ({"max_iter": 0}, "max_iter must be a positive integer, got 0"),
        ({"max_iter": 1.5}, "max_iter must be a positive integer"),
        ({"tol": -1e-3}, "tol must be a finite number of at least 0"),
        ({"tol": None}, "tol must be a finite number"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(solve, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        solve(**{**OK, **wrong})


def test_objective_and_violation_by_hand():
    X, dictionary = np.array([[3.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    code = np.array([[2.0, 0.0, -0.5]])  # the residual is (1.5, 1.5), its correlations (1.5, 3, 3)
    np.testing.assert_allclose(
        lasso_objective(X, dictionary, 0.5, code), [0.5 * (1.5**2 + 1.5**2) + 0.5 * 2.5]
    )
    np.testing.assert_allclose(kkt_violation(X, dictionary, 0.5, code), [3.5])  # 3 where -0.5 ought to be
    np.testing.assert_allclose(kkt_violation(X, dictionary, 0.5, np.array([[2.0, 0.0, 0.0]])), [1.5])
    np.testing.assert_allclose(kkt_violation(X, dictionary, 4.5, np.zeros((1, 3))), [0.0])
    with pytest.raises(ValueError, match="code must have the shape"):
        kkt_violation(X, dictionary, 0.5, code.T)
    with pytest.raises(ValueError, match="code must be finite"):
        lasso_objective(X, dictionary, 0.5, code * np.nan)


# ---------------------------------------------------------------------------------------------------------
# the encoder that learns


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_layers", [1, 2, 7, 30])
def test_untrained_layers_are_steps_of_ista(dtype, n_layers):
    X, dictionary = (a.astype(dtype) for a in _problem())
    with torch.no_grad():
        code = LISTA(dictionary, 0.1, n_layers)(torch.from_numpy(X)).numpy()
    assert code.dtype == dtype
    np.testing.assert_allclose(code, ista(X, dictionary, 0.1, max_iter=n_layers, tol=0), atol=1e-6, rtol=2e-6)


def test_trained_layers_are_better_than_steps_of_ista():
    X, dictionary = _problem(n_samples=600)
    best = fista(X, dictionary, 0.1)
    X_train, best_train, X_test = torch.from_numpy(X[:400]), torch.from_numpy(best[:400]), X[400:]
    model = LISTA(dictionary, 0.1, 3)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (model(X_train) - best_train).square().sum(dim=1).mean().backward()
        optimizer.step()
    with torch.no_grad():
        learned = model(torch.from_numpy(X_test)).numpy()
    error, error_ista = (
        np.square(code - best[400:]).sum()
        for code in (learned, ista(X_test, dictionary, 0.1, max_iter=3, tol=0))
    )
    assert error < 0.5 * error_ista
    assert set(start) == {"W_e", "S", "theta"}
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, start[name]), name


def test_dictionary_is_not_tied_to_the_module():
    _, dictionary = _problem()
    before = dictionary.copy()
    model = LISTA(dictionary, 0.1, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(dictionary, before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.ones(3), 0.1, 2), "dictionary must be a table"),
        ((np.ones((0, 3)), 0.1, 2), "dictionary must hold at least one atom"),
        ((np.full((2, 3), np.nan), 0.1, 2), "dictionary must be finite"),
        ((np.ones((2, 3)), -0.1, 2), "alpha must be a finite number of at least 0"),
        ((np.ones((2, 3)), 0.1, 0), "n_layers must be a positive integer"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        LISTA(*arguments)


@pytest.mark.parametrize("shape", [(4,), (5, 2), (5, 3, 1)])
def test_a_network_refuses_samples_of_another_size(shape):
    with pytest.raises(ValueError, match=r"X must have the shape \(n_samples, 3\)"):
        LISTA(np.ones((2, 3)), 0.1, 2)(torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("X", "kind", "sentence"),
    [
        (torch.ones(5, 3), ValueError, "dtype of the dictionary, torch.float64, got torch.float32"),
        (torch.ones(5, 3, dtype=int), ValueError, "dtype of the dictionary, torch.float64, got torch.int64"),
        (np.ones((5, 3)), TypeError, "X must be a torch tensor, got ndarray"),
    ],
)
def test_a_network_refuses_samples_of_another_kind(X, kind, sentence):
    with pytest.raises(kind, match=sentence):
        LISTA(np.ones((2, 3)), 0.1, 2)(X)
