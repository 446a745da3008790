"""TopographicICA against its definition, closed forms and scikit-learn."""

import itertools

import numpy as np
import pandas as pd
import pytest
from linear_inputs import MAKERS, make, rank
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from labutils.factor_models import (
    TopographicICA,
    block_neighbourhood,
    fix_signs,
    grid_neighbourhood,
    topographic_ica,
)

quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.filterwarnings("ignore:every neighbourhood")  # of data with as few features as the checks have
@parametrize_with_checks([TopographicICA(), TopographicICA(radius=0)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


def _laplace(q, n=3000, seed=0):
    return np.random.default_rng(seed).laplace(size=(n, q)) / np.sqrt(2)


def _groups(n_groups, size, n=3000, seed=0):
    """Sources that share their strength with the others of their group."""
    rng = np.random.default_rng(seed)
    strength = np.abs(rng.laplace(size=(n, n_groups, 1))) / np.sqrt(2)
    return (strength * rng.standard_normal((n, n_groups, size))).reshape(n, -1)


def _mixing(q, seed=0):
    return np.random.default_rng([seed, 1]).standard_normal((q, q))


def _objective(H, pooling, epsilon=0.01):
    return np.mean([sum(np.sqrt(epsilon + p @ h**2) for p in pooling) for h in H])


def _distance_from_permutation(P):
    """Largest entry of |P|, in units of its row's largest, that a permutation would have as zero."""
    P = np.abs(P) / np.abs(P).max(axis=1, keepdims=True)
    return np.sort(P, axis=1)[:, -2].max()


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 4), (6, 5), (2, 2)])
def test_grid_neighbourhood_is_a_square_on_a_torus(grid, radius):
    rows, columns = grid
    expected = np.zeros((rows * columns, rows * columns))
    for a, b in itertools.product(range(rows), range(columns)):
        for da, db in itertools.product(range(-radius, radius + 1), repeat=2):
            expected[a * columns + b, (a + da) % rows * columns + (b + db) % columns] = 1
    np.testing.assert_array_equal(grid_neighbourhood(grid, radius), expected)


def test_block_neighbourhood_has_one_row_a_group():
    expected = [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(block_neighbourhood(3, 2), expected)


@pytest.mark.parametrize("n", [1, 2, 7, 12, 36, 100, 30])
def test_default_grid_is_as_near_to_a_square_as_it_can_be(n):
    rows, columns = topographic_ica._near_square(n)
    assert rows * columns == n
    assert rows <= columns
    assert not any(n % other == 0 for other in range(rows + 1, int(n**0.5) + 1))


@quiet
@pytest.mark.parametrize("name", MAKERS)
def test_sources_are_white_and_add_up_to_the_data(name):
    X = make(name)
    model = TopographicICA(radius=0, max_iter=20, random_state=0).fit(X)
    H = model.transform(X)
    assert H.shape == (len(X), rank(X))
    np.testing.assert_allclose(H.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(H.T @ H / len(X), np.eye(H.shape[1]), atol=1e-6)
    np.testing.assert_allclose(model.inverse_transform(H), X, atol=1e-9 * np.abs(X).max())
    np.testing.assert_allclose(model.components_ @ model.mixing_, np.eye(H.shape[1]), atol=1e-6)
    np.testing.assert_array_equal(model.components_, fix_signs(model.components_))


@quiet
def test_fewer_components_keep_the_leading_principal_subspace():
    X = make("random")
    model = TopographicICA(3, radius=0, random_state=0).fit(X)
    pca = PCA(3).fit(X)
    expected = pca.inverse_transform(pca.transform(X))
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), expected, atol=1e-9)


@pytest.mark.parametrize("pooling", [np.eye(4), grid_neighbourhood((2, 2), 0), block_neighbourhood(2, 2)])
def test_objective_is_its_definition_and_its_slopes_are_its_derivatives(pooling):
    rng = np.random.default_rng(0)
    Z, rotation = rng.laplace(size=(1300, 4)), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    value, slopes = topographic_ica._objective(rotation, Z, pooling, 0.01)
    assert value == pytest.approx(_objective(Z @ rotation.T, pooling), rel=1e-12)
    for i, j in itertools.permutations(range(4), 2):
        ends = []
        for angle in (1e-5, -1e-5):
            turn = np.eye(4)
            turn[[i, j], [i, j]] = np.cos(angle)
            turn[i, j], turn[j, i] = np.sin(angle), -np.sin(angle)
            ends.append(topographic_ica._objective(turn @ rotation, Z, pooling, 0.01)[0])
        assert slopes[i, j] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_two_sources_are_turned_to_the_lowest_point_of_all_angles():
    Z = PCA(whiten=True).fit_transform(_laplace(2, n=500) @ _mixing(2).T) * np.sqrt(500 / 499)
    lowest = min(
        _objective(Z @ [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]], np.eye(2))
        for a in np.linspace(0, np.pi / 2, 500)
    )
    for seed in range(5):
        model = TopographicICA(radius=0, tol=1e-6, random_state=seed).fit(Z)
        assert lowest - 1e-4 < model.objective_ <= lowest
        assert model.objective_ == pytest.approx(_objective(model.transform(Z), np.eye(2)), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_one_are_ica(seed):
    H, W = _laplace(5, seed=seed), _mixing(5, seed)
    model = TopographicICA(radius=0, tol=1e-6, random_state=seed).fit(H @ W.T)
    assert _distance_from_permutation(model.components_ @ W) < 0.1
    library = FastICA(whiten="unit-variance", random_state=seed).fit(H @ W.T)
    assert _distance_from_permutation(model.components_ @ library.mixing_) < 0.05


def test_the_best_of_several_starts_finds_the_groups():
    size, n_groups, W = 2, 3, _mixing(6)
    X = _groups(n_groups, size) @ W.T
    pooling = block_neighbourhood(n_groups, size)
    fits = [TopographicICA(neighbourhood=pooling, random_state=seed).fit(X) for seed in range(20)]
    best = min(fits, key=lambda model: model.objective_)
    P = (best.components_ @ W) ** 2
    between_groups = np.sqrt(P.reshape(n_groups, size, n_groups, size).sum(axis=(1, 3)))
    assert _distance_from_permutation(between_groups) < 0.05
    assert max(fits, key=lambda model: model.objective_).objective_ > best.objective_ + 0.01


def _map_sources(rows, columns, n=4000, seed=0):
    """Sources on a torus whose strengths are shared with their neighbours."""
    rng = np.random.default_rng(seed)
    causes = rng.exponential(size=(n, rows * columns)) ** 2
    strength = np.sqrt(causes @ grid_neighbourhood((rows, columns)))
    return strength * rng.standard_normal(strength.shape)


def test_energies_of_neighbours_on_the_map_are_correlated():
    X = _map_sources(6, 6) @ _mixing(36).T
    model = TopographicICA(grid=(6, 6), random_state=0, tol=0.005).fit(X)
    assert model.grid_ == (6, 6)
    energy = np.corrcoef((model.transform(X) ** 2).T)
    near = (model.neighbourhood_ - np.eye(36)).astype(bool)
    shuffled = np.random.default_rng(0).permutation(36)
    assert energy[near].mean() > 1.5 * energy[model.neighbourhood_ == 0].mean()
    assert energy[near].mean() > 1.3 * energy[np.ix_(shuffled, shuffled)][near].mean()


def test_no_rotation_is_left_that_lowers_the_objective():
    X = _map_sources(4, 4) @ _mixing(16).T
    model = TopographicICA(random_state=0, tol=1e-5).fit(X)
    H, pooling = model.transform(X), model.neighbourhood_
    for i, j in itertools.combinations(range(16), 2):
        for angle in (-0.01, 0.01):
            turned = H.copy()
            turned[:, i] = np.cos(angle) * H[:, i] + np.sin(angle) * H[:, j]
            turned[:, j] = np.cos(angle) * H[:, j] - np.sin(angle) * H[:, i]
            assert np.sqrt(0.01 + turned**2 @ pooling.T).sum(axis=1).mean() > model.objective_ - 1e-6


@quiet
@pytest.mark.parametrize("seed", range(3))
def test_every_iteration_lowers_the_objective(seed):
    X = _groups(4, 3, n=200, seed=seed) ** 3
    models = [
        TopographicICA(radius=0, epsilon=1e-4, max_iter=n, tol=1e-9, random_state=seed).fit(X)
        for n in range(1, 31)
    ]
    values = [model.objective_ for model in models if model.n_iter_ == model.max_iter]
    assert len(values) > 10
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_the_size_of_the_blocks_makes_no_difference(block, monkeypatch):
    X = _laplace(4, n=1000) @ _mixing(4).T
    expected = TopographicICA(radius=0, random_state=0, tol=1e-6).fit(X)
    monkeypatch.setattr(topographic_ica, "_BLOCK", block)
    model = TopographicICA(radius=0, random_state=0, tol=1e-6).fit(X)
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-5)


@quiet
def test_the_same_seed_gives_the_same_map_and_another_seed_another():
    X = _map_sources(4, 5, n=500)
    fits = [TopographicICA(random_state=seed, max_iter=30).fit(X).components_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 0.1


@quiet
def test_a_second_fit_forgets_the_first():
    X = _laplace(6, n=300)
    model = TopographicICA(radius=0, random_state=0, max_iter=5).fit(X)
    assert model.grid_ == (2, 3)
    model.set_params(neighbourhood=block_neighbourhood(2, 3)).fit(X)
    assert model.grid_ is None
    assert model.neighbourhood_.shape == (2, 6)


@quiet
def test_input_is_not_modified_and_all_results_are_float64():
    X = _laplace(4, n=300).astype(np.float32)
    pooling = [[1, 1, 0, 0], [0, 0, 1, 2]]
    before = X.copy()
    model = TopographicICA(neighbourhood=pooling, random_state=0, max_iter=5).fit(X)
    H = model.transform(X)
    assert {H.dtype, model.components_.dtype, model.inverse_transform(H).dtype} == {np.dtype("float64")}
    np.testing.assert_array_equal(X, before)
    assert pooling == [[1, 1, 0, 0], [0, 0, 1, 2]]


@quiet
def test_sources_of_a_table_have_names():
    X = pd.DataFrame(_laplace(3, n=100), columns=["a", "b", "c"])
    model = TopographicICA(radius=0, random_state=0, max_iter=5).set_output(transform="pandas").fit(X)
    assert list(model.transform(X).columns) == ["topographicica0", "topographicica1", "topographicica2"]
    assert list(model.feature_names_in_) == ["a", "b", "c"]


def test_it_says_when_it_has_not_converged():
    with pytest.warns(ConvergenceWarning, match="not converged after 2 iterations.*raise max_iter or tol"):
        TopographicICA(radius=0, max_iter=2, random_state=0).fit(_laplace(5))


def test_it_says_when_the_neighbourhoods_say_nothing():
    with pytest.warns(UserWarning, match="any rotation is as good as another"):
        TopographicICA(grid=(2, 2), random_state=0).fit(_laplace(4))


X = _laplace(4, n=50)
REFUSED = {
    "nan": ({}, np.full((5, 2), np.nan), "contains NaN"),
    "one row": ({}, np.ones((1, 3)), "minimum of 2 is required"),
    "constant": ({}, np.full((9, 2), 0.1), "X must not be constant in all columns"),
    "rank too low": ({"n_components": 5}, X, "at least the rank 5, one a component, but has 4"),
    "grid too large": ({"grid": (2, 3)}, X, "at least the rank 6"),
    "n_components": ({"n_components": 0}, X, "n_components must be a positive integer, got 0"),
    "a share": ({"n_components": 0.5}, X, "n_components must be a positive integer, got 0.5"),
    "two numbers": ({"n_components": 3, "grid": (2, 2)}, X, "n_components is 3, but grid or .* has 4 units"),
    "grid of one": ({"grid": (4,)}, X, "grid must be a pair, rows and columns, got"),
    "grid of zero": ({"grid": (0, 4)}, X, r"grid\[0\] must be a positive integer, got 0"),
    "radius": ({"radius": -1}, X, "radius must be an integer of at least 0, got -1"),
    "negative": ({"neighbourhood": -np.eye(4)}, X, "no negative entry and no column of zeros"),
    "left out": ({"neighbourhood": [[1, 1, 1, 0]]}, X, "no negative entry and no column of zeros"),
    "a vector": ({"neighbourhood": [1, 1]}, X, "Expected 2D array"),
    "epsilon": ({"epsilon": 0}, X, "epsilon must be a finite number above 0"),
    "epsilon nan": ({"epsilon": np.nan}, X, "epsilon must be a finite number above 0"),
    "max_iter": ({"max_iter": 2.5}, X, "max_iter must be a positive integer, got 2.5"),
    "tol": ({"tol": -1e-3}, X, "tol must be a finite number of at least 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_makes_no_sense_is_refused(case):
    parameters, data, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        TopographicICA(**parameters).fit(data)


@pytest.mark.parametrize(("n_groups", "size"), [(0, 2), (2, 1.5)])
def test_groups_that_make_no_sense_are_refused(n_groups, size):
    with pytest.raises(ValueError, match="must be a positive integer"):
        block_neighbourhood(n_groups, size)


@quiet
def test_sources_of_another_number_are_refused():
    model = TopographicICA(radius=0, random_state=0, max_iter=2).fit(X)
    with pytest.raises(ValueError, match="one column a component, 4, got 3"):
        model.inverse_transform(np.ones((2, 3)))
    with pytest.raises(NotFittedError):
        TopographicICA().transform(X)
