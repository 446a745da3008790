"""What counts as a direction: the same for the estimators and for what the lessons write out."""

import subprocess
import sys
from pathlib import Path

import linear_inputs
import numpy as np
import pytest
import scratch

from labutils.factor_models import SlowFeatureAnalysis, TopographicICA, rounding_floor

LESSONS = {number: scratch.load(number) for number in ("01", "02", "03", "05", "07")}
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(params=linear_inputs.HARD)
def hard(request):
    return linear_inputs.make_hard(request.param)


def _tica(X):
    return TopographicICA(radius=0, max_iter=5, random_state=0).fit(X)


def _with(unmixing, b):
    return lambda X: (X.astype(float) - b) @ unmixing.T


def _unmixings(X):
    """By name, a function that computes white data, as each of them has learned it from X."""
    U, b, _ = LESSONS["05"]["sfa"](X)
    return {
        "whiten, 02": lambda other: LESSONS["02"]["whiten"](other),
        "whiten, 03": _with(LESSONS["03"]["whiten"](X)[1], X.astype(float).mean(axis=0)),
        "sfa, 05": _with(U, b),
        "SlowFeatureAnalysis": SlowFeatureAnalysis().fit(X).transform,
        "TopographicICA": _tica(X).transform,
    }


@quiet
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", linear_inputs.HARD)
def test_only_directions_that_vary_are_whitened(name, seed):
    X, rank = linear_inputs.make_hard(name, seed)
    before = X.copy()
    for method, transform in _unmixings(X).items():
        Z = transform(X)
        assert Z.shape == (len(X), rank), method
        np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-4, err_msg=method)
        np.testing.assert_allclose(Z.T @ Z / len(Z), np.eye(rank), atol=1e-4, err_msg=method)
    np.testing.assert_array_equal(X, before)


@quiet
def test_last_digits_do_not_move_what_was_found(hard):
    """The inputs are rounded once more: sources move by about as much, not by their own size."""
    X, _ = hard
    eps = max(np.finfo(X.dtype).eps, 1e-16)
    rounded = X * (1 + eps * np.random.default_rng(1).choice([-1, 1], X.shape)).astype(X.dtype)
    for method, transform in _unmixings(X).items():
        if method != "whiten, 02":  # which learns anew, and may turn what is equally large
            np.testing.assert_allclose(transform(rounded), transform(X), atol=0.05, err_msg=method)


@quiet
def test_white_data_are_the_same_but_for_a_rotation(hard):
    X, _ = hard
    spaces = {name: (Z := transform(X)) @ Z.T / len(X) for name, transform in _unmixings(X).items()}
    for name, space in spaces.items():
        np.testing.assert_allclose(space, spaces["whiten, 03"], atol=1e-3, err_msg=name)


def test_closed_form_asks_for_fewer_factors_than_directions(hard):
    X, rank = hard
    ppca_ml = LESSONS["01"]["ppca_ml"]
    b, W, sigma2 = ppca_ml(X, rank - 1)
    assert np.isfinite(b).all()
    assert np.isfinite(W).all()
    assert sigma2 > 0
    with pytest.raises(ValueError, match=f"below the data's rank, {rank}, got {rank}"):
        ppca_ml(X, rank)


@quiet
def test_topographic_ica_gives_the_data_back(hard):
    X, rank = hard
    model = _tica(X)
    back = model.inverse_transform(model.transform(X))
    allowed = 0.02 * X.astype(float).std(axis=0) + rounding_floor(X)
    assert (np.abs(back - X) <= allowed).all()
    np.testing.assert_allclose(model.components_ @ model.mixing_, np.eye(rank), atol=1e-4)


@quiet
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 123456789.1])
def test_a_constant_stays_one_however_many_samples_there_are(constant):
    """The mean of 200,000 equal numbers is off by thousands of roundings."""
    X = np.column_stack([np.random.default_rng(0).laplace(size=(200_000, 2)), np.full(200_000, constant)])
    assert abs(X.mean(axis=0)[2] / constant - 1) > 1e-14
    for method, transform in _unmixings(X).items():
        assert transform(X[:9] if method != "whiten, 02" else X).shape[1] == 2, method
    with pytest.raises(ValueError, match="below the data's rank, 2, got 2"):
        LESSONS["01"]["ppca_ml"](X, 2)
    with pytest.raises(ValueError, match="a feature is constant"):
        LESSONS["01"]["fa_em"](X, 1, 0)
    with pytest.raises(ValueError, match="constant"):
        LESSONS["05"]["delta"](X)
    with pytest.raises(ValueError, match="constant"):
        LESSONS["02"]["pca_svd"](X[:, 2:], 1)
    with pytest.raises(ValueError, match="constant"):
        LESSONS["03"]["match_sources"](X, X)


CONSTANT = {
    "ones": np.ones((30, 3)),
    "large": np.full((30, 3), 123456789.1),
    "large in single precision": np.full((30, 3), 123456789.1, dtype=np.float32),
    "but for the last digit": 0.1 + 1e-17 * np.random.default_rng(0).integers(-3, 4, (30, 3)),
    "zeros": np.zeros((30, 3)),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_constant_is_refused_by_all(name):
    X = CONSTANT[name]
    labels = np.arange(30) % 2
    for fit in (
        lambda: LESSONS["01"]["ppca_ml"](X, 1),
        lambda: LESSONS["02"]["whiten"](X),
        lambda: LESSONS["02"]["pca_svd"](X, 1),
        lambda: LESSONS["03"]["whiten"](X),
        lambda: LESSONS["03"]["match_sources"](X, X),
        lambda: LESSONS["05"]["sfa"](X),
        lambda: LESSONS["05"]["delta"](X),
        lambda: LESSONS["07"]["probe"](X, labels, X, labels, 0),
        lambda: SlowFeatureAnalysis().fit(X),
        lambda: TopographicICA().fit(X),
    ):
        with pytest.raises(ValueError, match=r"constant|below the data's rank, 0"):
            fit()


def test_floor_follows_precision_size_and_number_of_columns():
    X = np.random.default_rng(0).standard_normal((1000, 4)) * [1, 1e9, 1e-9, 0] + [0, 0, 0, 0]
    floor = rounding_floor(X)
    np.testing.assert_allclose(floor[1:3] / floor[0], [1e9, 1e-9], rtol=0.1)
    assert floor[0] == pytest.approx(100 * np.finfo(float).eps, rel=0.1)  # 50 times the root of four columns
    assert floor[3] > 0
    single = rounding_floor(X.astype(np.float32))
    np.testing.assert_allclose(single[:3] / floor[:3], 2.0**29, rtol=1e-5)
    np.testing.assert_allclose(rounding_floor(10 * X[:, :1]), 5 * floor[:1], rtol=1e-12)
    np.testing.assert_allclose(rounding_floor(X.astype(int)), rounding_floor(np.trunc(X)))
    assert rounding_floor(X[:, :1] + 1e6)[0] == pytest.approx(50e6 * np.finfo(float).eps, rel=1e-3)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e307])
def test_floor_neither_overflows_nor_vanishes(size):
    floor = rounding_floor(size * np.random.default_rng(0).uniform(-1, 1, (50, 2)))
    assert np.isfinite(floor).all()
    assert (floor > 0).all()


@pytest.mark.parametrize(
    ("X", "sentence"), [(np.ones(3), "Expected 2D array"), (np.full((2, 2), np.nan), "contains NaN")]
)
def test_floor_of_no_table_of_finite_numbers_is_refused(X, sentence):
    with pytest.raises(ValueError, match=sentence):
        rounding_floor(X)


@pytest.mark.parametrize("number", ["01", "02", "03", "05"])
def test_linear_lessons_need_no_torch(number):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import scratch\nnamespace = scratch.load({number!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
