"""What notebook 05 writes out, against closed forms, SciPy and sklearn-sfa, on inputs harder than the lesson's."""

import linear_inputs
import numpy as np
import pytest
import scratch
from scipy.linalg import eigh
from sklearn.preprocessing import PolynomialFeatures

from labutils.factor_models import SlowFeatureAnalysis

LESSON = scratch.load("05_slow_feature_analysis")


def _driven(seed=0, n=500):
    """A slow and three faster signals, linearly mixed, far from zero."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    sources = np.column_stack([np.sin(2 * np.pi * t / p + rng.uniform(0, 6)) for p in (97, 31, 11, 5)])
    return sources @ rng.standard_normal((4, 4)) + 10 + 0.01 * rng.standard_normal((n, 4))


INPUTS = {name: (lambda name=name: linear_inputs.make(name)) for name in linear_inputs.MAKERS}
INPUTS |= {
    "slow and fast": _driven,
    "repeated column": lambda: _driven()[:, [0, 1, 2, 3, 1]],
    "one column": lambda: _driven()[:, :1],
    "integers": lambda: np.random.default_rng(0).integers(0, 10, (50, 4)),
}


@pytest.fixture(params=INPUTS)
def X(request):
    return INPUTS[request.param]()


def _features(X, **options):
    U, b, deltas = LESSON["sfa"](X, **options)
    return (X - b) @ U.T, deltas


def test_slow_features_keep_the_constraints_and_their_steps_are_uncorrelated(X):
    Y, deltas = _features(X)
    assert Y.shape == (len(X), linear_inputs.rank(X))
    np.testing.assert_allclose(Y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(Y.T @ Y / len(Y), np.eye(Y.shape[1]), atol=1e-6)
    steps = np.diff(Y, axis=0)
    np.testing.assert_allclose(steps.T @ steps / len(steps), np.diag(deltas), atol=1e-6)
    assert (np.diff(deltas) >= -1e-12).all()
    np.testing.assert_allclose(LESSON["delta"](Y), deltas, atol=1e-6)


def test_slow_features_solve_the_generalised_eigenproblem():
    X = _driven()
    steps = np.diff(X, axis=0)
    deltas, vectors = eigh(steps.T @ steps / len(steps), np.cov(X.T, bias=True))
    U, _, found = LESSON["sfa"](X)
    np.testing.assert_allclose(found, deltas, rtol=1e-8)
    np.testing.assert_allclose(np.abs(U), np.abs(vectors.T), rtol=1e-5, atol=1e-8)


def test_slow_features_are_those_of_the_library(X):
    Y, deltas = _features(X)
    library = SlowFeatureAnalysis().fit(X)
    np.testing.assert_allclose(deltas, library.delta_values_, atol=1e-5)
    np.testing.assert_allclose(np.abs(Y), np.abs(library.transform(X)), atol=1e-3)


@pytest.mark.parametrize("name", ["random", "slow and fast"])
def test_slow_features_are_those_of_sklearn_sfa(name):
    sksfa = pytest.importorskip("sksfa")
    X = INPUTS[name]()
    Y, deltas = _features(X)
    peer = sksfa.SFA(X.shape[1]).fit(X)
    np.testing.assert_allclose(deltas, peer.delta_values_, rtol=3 / len(X))
    correlation = np.abs(np.corrcoef(Y.T, peer.transform(X).T)[: Y.shape[1], Y.shape[1] :])
    np.testing.assert_allclose(correlation.diagonal(), 1, atol=1e-9)


def test_slow_features_do_not_depend_on_an_invertible_map_of_the_input():
    X = _driven()
    A = np.random.default_rng(1).standard_normal((4, 4))
    Y, deltas = _features(X)
    mapped, same = _features(X @ A * [1e3, 1, 1, 1e-3] - 7)
    np.testing.assert_allclose(deltas, same, rtol=1e-6)
    np.testing.assert_allclose(np.abs(Y), np.abs(mapped), atol=1e-5)


def test_slowest_of_all_signals_are_cosines():
    n = 40
    Y, deltas = _features(np.random.default_rng(0).standard_normal((n, 60)))
    j = np.arange(1, n)
    t = np.arange(n)[:, None] + 0.5
    np.testing.assert_allclose(deltas, n / (n - 1) * (2 - 2 * np.cos(j * np.pi / n)), atol=1e-9)
    np.testing.assert_allclose(np.abs(Y), np.abs(np.sqrt(2) * np.cos(j * np.pi * t / n)), atol=1e-6)


def test_first_features_are_the_slowest_of_all():
    U, b, deltas = LESSON["sfa"](X := _driven())
    few, same, first = LESSON["sfa"](X, n_components=2)
    np.testing.assert_array_equal(few, U[:2])
    np.testing.assert_array_equal(same, b)
    np.testing.assert_array_equal(first, deltas[:2])


@pytest.mark.parametrize("period", [4, 10, 50])
def test_delta_of_a_sine_of_any_size(period):
    t = np.arange(200 * period + 1)
    wave = np.sin(2 * np.pi * t / period)
    expected = 2 - 2 * np.cos(2 * np.pi / period)
    found = LESSON["delta"](np.column_stack([wave, -1e6 * wave + 1e3, 1e-6 * wave]))
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_delta_is_two_less_twice_the_correlation_of_neighbours():
    Y = np.random.default_rng(0).standard_normal((100_000, 2))
    Y[1:, 1] += Y[:-1, 1]
    assert LESSON["delta"](Y) == pytest.approx([2, 1], abs=0.03)
    assert LESSON["delta"](np.tile([[1.0], [-1.0]], (50, 1))) == pytest.approx([4])


@pytest.mark.parametrize("d", [1, 2, 5])
def test_quadratic_expansion_is_that_of_scikit_learn(d):
    X = np.random.default_rng(0).standard_normal((20, d))
    expected = PolynomialFeatures(2, include_bias=False).fit_transform(X)
    np.testing.assert_allclose(LESSON["quadratic"](X), expected)


def test_gratings_are_waves_of_their_frequency_orientation_and_phase():
    stimuli = LESSON["gratings"](16, [0.125, 0.25], n_orientations=2, n_phases=8)
    assert stimuli.shape == (4, 8, 256)
    np.testing.assert_allclose((stimuli**2).mean(axis=(1, 2)), 1, atol=1e-9)
    images = stimuli.reshape(2, 2, 8, 16, 16)
    for number, cycles in enumerate((2, 4)):  # in 16 pixels
        along, down = images[number]
        assert np.ptp(along[0], axis=0).max() < 1e-9
        assert np.ptp(down[0], axis=1).max() < 1e-9
        for wave in (along[0, 0], down[0, :, 0]):
            assert np.abs(np.fft.rfft(wave)).argmax() == cycles
    np.testing.assert_allclose(stimuli[:, 4], -stimuli[:, 0], atol=1e-9)  # half a period later


def test_gratings_move_with_their_phase():
    along = LESSON["gratings"](16, [0.125], n_orientations=1, n_phases=8).reshape(8, 16, 16)
    np.testing.assert_allclose(along[1][:, :-1], along[0][:, 1:], atol=1e-9)  # one pixel is 1/8 period


def test_phase_harmonics_tell_simple_from_complex_cells():
    stimuli = LESSON["gratings"](16, [0.125, 0.25], n_orientations=4)
    pair = stimuli[2, [0, 6]]  # the same wave, a quarter of a period apart
    sine, cosine = stimuli @ pair.T / 256 @ np.eye(2)[:, :1], stimuli @ pair.T / 256 @ np.eye(2)[:, 1:]
    units = {
        "complex": sine**2 + cosine**2,
        "square": sine**2,
        "product": sine * cosine,
        "half": 1 + sine,
        "inhibited": -(sine**2) - cosine**2,
    }
    once, twice, curves = LESSON["phase_harmonics"](np.concatenate(list(units.values()), axis=2))
    assert curves.shape == (5, 24)
    np.testing.assert_allclose(once[[0, 1, 3, 4]], [0, 0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(twice[[0, 1, 3, 4]], [0, 1, 0, 0], atol=1e-9)
    assert twice[2] > 1e6


def test_phase_harmonics_look_at_the_grating_with_the_strongest_response():
    phase = 2 * np.pi * np.arange(24) / 24
    responses = np.stack([0.5 + np.cos(phase), 2 + 0.1 * np.cos(2 * phase), np.full(24, -3.0)])[:, :, None]
    _, _, curve = LESSON["phase_harmonics"](responses)
    np.testing.assert_array_equal(curve[0], -3)
    once, twice, _ = LESSON["phase_harmonics"](responses[:2])
    assert once == pytest.approx([0], abs=1e-9)
    assert twice == pytest.approx([0.05])
    once, _, _ = LESSON["phase_harmonics"](responses[:1])
    assert once == pytest.approx([2])


@pytest.mark.parametrize("name", ["sfa", "delta", "quadratic", "phase_harmonics"])
def test_input_is_not_modified(name):
    argument = _driven().reshape(5, 50, 8) if name == "phase_harmonics" else _driven()
    before = argument.copy()
    LESSON[name](argument)
    np.testing.assert_array_equal(argument, before)


def test_without_the_cut_off_rounding_becomes_a_feature():
    angle = np.cumsum(0.1 * np.random.default_rng(0).standard_normal(2000))
    circle = LESSON["quadratic"](np.column_stack([np.cos(angle), np.sin(angle)]))
    assert len(LESSON["sfa"](circle)[0]) == 4
    U, _, _ = LESSON["sfa"](circle, tolerance=0)
    assert len(U) == 5
    assert np.abs(U).max() > 1e6


REFUSED = {
    "one dimension": ("sfa", [np.zeros(5)], "Expected 2D array"),
    "nan": ("sfa", [np.array([[1.0, np.nan], [2.0, 3.0]])], "contains NaN"),
    "one row": ("sfa", [np.ones((1, 2))], "minimum of 2 is required"),
    "constant": ("sfa", [np.full((9, 2), 0.1)], "must not be constant in all columns"),
    "too many": ("sfa", [_driven(), 5], "n_components must be from 1 to 4, the rank of X, got 5"),
    "none": ("sfa", [_driven(), 0], "n_components must be from 1 to 4"),
    "large and constant": ("sfa", [np.full((9, 2), 123456789.1)], "must not be constant in all columns"),
    "constant but for rounding": (
        "delta",
        [0.1 + 1e-17 * np.arange(12).reshape(4, 3)],
        "must not have a constant column",
    ),
    "constant column": ("delta", [linear_inputs.make("constant column")], "must not have a constant column"),
    "nan in delta": ("delta", [np.full((4, 2), np.nan)], "contains NaN"),
    "one step": ("delta", [np.ones((1, 2))], "minimum of 2 is required"),
    "quadratic of a vector": ("quadratic", [np.zeros(5)], "Expected 2D array"),
    "one pixel": ("gratings", [1, [0.1]], "size must be at least 2"),
    "few phases": ("gratings", [8, [0.1], 4, 4], "n_phases at least 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_makes_no_sense_is_refused(case):
    name, arguments, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        LESSON[name](*arguments)
