"""What notebook 04 writes out, against scipy, autograd, closed forms and the library, on hard inputs."""

import itertools

import numpy as np
import pytest
import scratch
import torch
from linear_inputs import MAKERS, make, rank
from scipy import ndimage
from scipy.optimize import check_grad

from labutils.factor_models import (
    NICE,
    TopographicICA,
    block_neighbourhood,
    grid_neighbourhood,
    topographic_ica,
)
from labutils.gabor import fit_gabor

LESSON = scratch.load("04_beyond_linear_ica")
RNG = np.random.default_rng(0)


def _white(X):
    """White data, and the matrix that whitens, from the singular value decomposition."""
    U, s, axes = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    q = rank(X)
    return np.sqrt(len(X)) * U[:, :q], np.sqrt(len(X)) * axes[:q] / s[:q, None]


def _laplace(q, n=2000, seed=0):
    return np.random.default_rng(seed).laplace(size=(n, q)) / np.sqrt(2)


def _groups(n_groups, size, n=3000, seed=0):
    rng = np.random.default_rng(seed)
    strength = np.abs(rng.laplace(size=(n, n_groups, 1))) / np.sqrt(2)
    return (strength * rng.standard_normal((n, n_groups, size))).reshape(n, -1)


def _mixing(d, q, seed=0):
    return np.random.default_rng([seed, 1]).standard_normal((d, q))


# Gabor filters


@pytest.mark.parametrize("phase", [0, 0.7, -np.pi / 2, np.pi])
@pytest.mark.parametrize("frequency", [0.01, 0.05, 0.125, 0.4])
@pytest.mark.parametrize("orientation", [0, 0.3, np.pi / 2, 2.5])
def test_gabor_has_norm_one_and_mean_zero(orientation, frequency, phase):
    filter_ = LESSON["gabor"](orientation, frequency, phase, 3)
    assert np.linalg.norm(filter_) == pytest.approx(1, rel=1e-12)
    assert filter_.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("phase", [0, 1.0, -np.pi / 2])
@pytest.mark.parametrize("orientation", [0.0, 0.4, np.pi / 2, 2.0, 3.0])
def test_gabor_fit_finds_the_parameters_again(orientation, phase):
    fit = fit_gabor(LESSON["gabor"](orientation, 0.2, phase, 3)[None])
    assert fit.r2[0] > 1 - 1e-5  # not 1: the mean was taken out of the filter
    assert abs(np.sin(fit.orientation[0] - orientation)) < 1e-3
    assert fit.frequency[0] == pytest.approx(0.2, abs=1e-3)
    turned = -1 if np.cos(fit.orientation[0] - orientation) < 0 else 1
    assert np.cos(turned * fit.phase[0] - phase) > 1 - 1e-4
    np.testing.assert_allclose(fit.centre[0], 10, atol=0.01)
    np.testing.assert_allclose(fit.width[0], 3, rtol=1e-2)


def test_wave_of_orientation_0_runs_along_x_and_of_90_degrees_along_y():
    along_x, along_y = (LESSON["gabor"](angle, 0.1, -1.0, 3) for angle in (0, np.pi / 2))
    np.testing.assert_allclose(along_x, along_x[::-1], atol=1e-12)
    np.testing.assert_allclose(along_y, along_x.T, atol=1e-12)


@pytest.mark.parametrize("shape", [(30, 40), (21, 21), (5, 60)])
@pytest.mark.parametrize("side", [1, 3, 9])
def test_response_is_the_correlation_with_the_mirrored_image(shape, side):
    rng = np.random.default_rng(1)
    image, kernel = rng.standard_normal(shape), rng.standard_normal((side, side))
    expected = ndimage.correlate(image, kernel, mode="mirror")
    np.testing.assert_allclose(LESSON["respond"](image, kernel), expected, atol=1e-10)


def test_energy_is_the_length_of_the_even_and_the_odd_response():
    image = np.random.default_rng(0).standard_normal((25, 30))
    even, odd = (
        ndimage.correlate(image, LESSON["gabor"](0.5, 0.125, phase, 3), mode="mirror")
        for phase in (0, np.pi / 2)
    )
    energy = LESSON["gabor_energy"](image, 0.5, 0.125, 3)
    np.testing.assert_allclose(energy, np.sqrt(even**2 + odd**2), atol=1e-10)
    np.testing.assert_allclose(LESSON["gabor_energy"](-image, 0.5, 0.125, 3), energy, atol=1e-10)
    np.testing.assert_allclose(LESSON["gabor_energy"](np.full((30, 30), 7.0), 0.5, 0.125, 3), 0, atol=1e-10)


def test_energy_is_largest_at_the_orientation_of_a_grating_whatever_its_phase():
    angles = np.radians(np.arange(0, 180, 10))
    for true, phase in itertools.product(angles[::4], (0, 1, 2, 3)):
        image = LESSON["grating"](true, 0.125, phase)
        energies = [LESSON["gabor_energy"](image, angle, 0.125, 3)[10, 10] for angle in angles]
        assert angles[np.argmax(energies)] == true
        assert max(energies) == pytest.approx(
            LESSON["gabor_energy"](LESSON["grating"](true, 0.125, 0), true, 0.125, 3)[10, 10], rel=0.03
        )


@pytest.mark.parametrize("side", [7, 8])
def test_grating_has_its_phase_in_the_middle_and_runs_along_its_orientation(side):
    image = LESSON["grating"](0.0, 0.1, 0.3, side)
    x = np.arange(side) - (side - 1) / 2
    np.testing.assert_allclose(image, np.tile(np.cos(0.2 * np.pi * x + 0.3), (side, 1)), atol=1e-12)
    np.testing.assert_allclose(LESSON["grating"](np.pi / 2, 0.1, 0.3, side), image.T, atol=1e-12)


PHASES = np.arange(3600) * 2 * np.pi / 3600


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (np.abs(np.cos(PHASES)), 2 / 3),
        (5 * np.abs(np.cos(PHASES + 1)), 2 / 3),
        (np.full(3600, 3.0), 0),
        (1 + 0.3 * np.cos(2 * PHASES + 0.5), 0.3),
        (2 + np.cos(PHASES), 0),
        (np.cos(PHASES) ** 2, 1),
        ([1, 2, 3, 4, 5, 6], 4 * np.sqrt(3) / 21),  # by hand: |sum of r exp(-2 i phi)| is 2 sqrt(3)
    ],
)
def test_modulation_is_the_amplitude_at_twice_the_frequency_over_the_mean(response, expected):
    assert LESSON["modulation"](response) == pytest.approx(expected, abs=1e-6)


def test_modulation_goes_along_the_last_axis():
    responses = np.random.default_rng(0).uniform(size=(2, 3, 12))
    expected = [[LESSON["modulation"](row) for row in rows] for rows in responses]
    np.testing.assert_allclose(LESSON["modulation"](responses), expected, rtol=1e-12)


# Independent subspaces


@pytest.mark.parametrize("q", [1, 2, 5])
def test_nearest_rotation_is_the_polar_factor(q):
    R = _mixing(q, q)
    result = LESSON["nearest_rotation"](R)
    np.testing.assert_allclose(result @ result.T, np.eye(q), atol=1e-12)
    values, vectors = np.linalg.eigh(R @ R.T)
    np.testing.assert_allclose(result, vectors / np.sqrt(values) @ vectors.T @ R, atol=1e-9)


POOLINGS = {
    "one each": np.eye(6),
    "pairs": block_neighbourhood(3, 2),
    "sizes 1, 2, 3": np.repeat(np.eye(3), (1, 2, 3), axis=1),
    "a ring": grid_neighbourhood((1, 6)),
    "weights": np.abs(_mixing(4, 6)),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooled_ica_comes_to_rest_at_a_rotation_and_reports_its_objective(name):
    G = POOLINGS[name]
    Z, _ = _white(_groups(3, 2, n=1000) @ _mixing(6, 6).T)
    R, J = LESSON["pooled_ica"](Z, G, np.random.default_rng(0), n_iters=3000)
    np.testing.assert_allclose(R @ R.T, np.eye(6), atol=1e-10)
    direct = np.mean([sum(np.sqrt(0.01 + row @ h**2) for row in G) for h in Z @ R.T])
    assert pytest.approx(direct, rel=1e-10) == J
    _, slopes = topographic_ica._objective(R, Z, G, 0.01)  # itself tested against differences
    assert np.abs(slopes).max() < 1e-4


@pytest.mark.parametrize("name", MAKERS)
def test_pooled_ica_with_groups_of_one_reaches_the_librarys_objective(name):
    X = make(name)
    Z, _ = _white(X)
    G = np.eye(Z.shape[1])
    ours = min(LESSON["pooled_ica"](Z, G, np.random.default_rng(k), n_iters=1000)[1] for k in range(30))
    fits = [TopographicICA(radius=0, tol=1e-5, random_state=k).fit(X) for k in range(30)]
    library = min(model.objective_ for model in fits)
    assert ours == pytest.approx(library, rel=1e-2)
    for model in fits:  # and at the library's rotation both mean the same by it
        value, _ = topographic_ica._objective(np.eye(len(G)), model.transform(X), G, 0.01)
        assert value == pytest.approx(model.objective_, rel=1e-6)


@pytest.mark.parametrize("scales", [np.ones(4), [1e4, 1, 1, 1e-3]])
def test_pooled_ica_separates_heavy_tailed_sources(scales):
    H, W = _laplace(4), np.diag(scales) @ _mixing(4, 4)
    Z, K = _white(H @ W.T)
    R, _ = LESSON["pooled_ica"](Z, np.eye(4), np.random.default_rng(1))
    assert LESSON["group_error"](R @ K @ W, 1) < 0.05


def test_the_best_of_many_starts_finds_the_groups_and_agrees_with_the_library():
    W, G = _mixing(6, 6), block_neighbourhood(3, 2)
    X = _groups(3, 2) @ W.T
    Z, K = _white(X)
    starts = [LESSON["pooled_ica"](Z, G, np.random.default_rng(k)) for k in range(40)]
    R, J = min(starts, key=lambda start: start[1])
    assert LESSON["group_error"](R @ K @ W, 2) < 0.03
    fits = [TopographicICA(neighbourhood=G, tol=1e-5, random_state=k).fit(X) for k in range(40)]
    library = min(fits, key=lambda model: model.objective_)
    assert pytest.approx(library.objective_, rel=1e-7) == J
    assert LESSON["group_error"](library.components_ @ np.linalg.pinv(R @ K), 2) < 1e-3


def test_pooled_ica_lowers_its_objective():
    Z, _ = _white(_groups(3, 2, n=500) @ _mixing(6, 6).T)
    values = [
        LESSON["pooled_ica"](Z, block_neighbourhood(3, 2), np.random.default_rng(0), n_iters=n)[1]
        for n in range(40)
    ]
    assert (np.diff(values) <= 1e-12).all()
    assert values[-1] < values[0] - 0.01


@pytest.mark.parametrize("n_iters", [0, 1])
def test_pooled_ica_starts_at_a_rotation_drawn_from_the_generator(n_iters):
    Z, _ = _white(_groups(3, 2, n=500) @ _mixing(6, 6).T)
    G = block_neighbourhood(3, 2)
    starts = [LESSON["pooled_ica"](Z, G, np.random.default_rng(k), n_iters=n_iters)[0] for k in (0, 0, 1)]
    for R in starts:
        np.testing.assert_allclose(R @ R.T, np.eye(6), atol=1e-10)
    np.testing.assert_array_equal(starts[0], starts[1])
    assert np.abs(starts[0] - starts[2]).max() > 0.1


def _group_error_by_loops(P, size):
    k = len(P) // size
    B = np.array(
        [
            [
                np.sqrt((P[i * size : i * size + size, j * size : j * size + size] ** 2).sum())
                for j in range(k)
            ]
            for i in range(k)
        ]
    )
    total = sum(sum(row) / max(row) - 1 for row in B) + sum(sum(column) / max(column) - 1 for column in B.T)
    return total / (2 * k * (k - 1))


@pytest.mark.parametrize(("n_groups", "size"), [(2, 1), (3, 2), (2, 4), (4, 3)])
def test_group_error_is_its_definition(n_groups, size):
    P = _mixing(n_groups * size, n_groups * size)
    expected = _group_error_by_loops(P, size)
    assert LESSON["group_error"](P, size) == pytest.approx(expected, rel=1e-12)


def test_group_error_of_groups_of_one_is_the_amari_index_of_notebook_03():
    amari_index = scratch.load("03_ica")["amari_index"]
    P = _mixing(5, 5)
    assert LESSON["group_error"](P, 1) == pytest.approx(amari_index(P), rel=1e-12)


def test_group_error_ignores_the_order_of_groups_and_what_happens_within():
    rng = np.random.default_rng(0)
    P = np.zeros((6, 6))
    for row, column in enumerate((2, 0, 1)):
        P[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = rng.standard_normal((2, 2))
    assert LESSON["group_error"](P, 2) == pytest.approx(0, abs=1e-12)
    assert LESSON["group_error"](P[[0, 2, 1, 3, 4, 5]], 2) > 0.1  # a unit paired with a stranger
    assert LESSON["group_error"](np.eye(4)[[0, 2, 1, 3]], 2) == pytest.approx(1)


# NICE


def _network(n_in, n_out, seed):
    torch.manual_seed(seed)
    layers = torch.nn.Linear(n_in, 9), torch.nn.Tanh(), torch.nn.Linear(9, n_out)
    return torch.nn.Sequential(*layers).double().requires_grad_(False)


def _normal(n, d):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("d", [2, 3, 5, 64])
def test_coupling_moves_one_half_and_keeps_volumes(d, keep):
    kept, moved = range(keep, d, 2), range(1 - keep, d, 2)
    m, x = _network(len(kept), len(moved), d), _normal(20, d)
    y = LESSON["couple"](x, m, keep)
    torch.testing.assert_close(y[:, list(kept)], x[:, list(kept)], rtol=0, atol=0)
    torch.testing.assert_close(y[:, list(moved)], x[:, list(moved)] + m(x[:, list(kept)]))
    undone = LESSON["couple"](y, lambda half: -m(half), keep)
    torch.testing.assert_close(undone, x, rtol=0, atol=1e-12)
    for row in x[:3]:
        jacobian = torch.autograd.functional.jacobian(lambda r: LESSON["couple"](r[None], m, keep)[0], row)
        assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("prior", ["logistic", "gaussian"])
@pytest.mark.parametrize(("d", "n_couplings"), [(2, 4), (3, 3), (7, 5), (64, 2)])
def test_log_density_is_the_librarys_and_that_of_autograds_determinant(d, n_couplings, prior):
    torch.manual_seed(0)
    model = NICE(d, n_couplings, hidden_dim=8, prior=prior).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    x = _normal(6, d)
    ours = LESSON["nice_log_prob"](x, model.shifts, model.log_scale, prior)
    torch.testing.assert_close(ours, model.log_prob(x), rtol=1e-12, atol=1e-12)
    for row, value in zip(x, ours, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r: model(r[None])[0], row)
        prior_part = LESSON["LOG_PRIOR"][prior](model(row[None])).sum()
        expected = prior_part + torch.linalg.slogdet(jacobian).logabsdet
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)


def test_log_density_is_by_default_that_of_the_logistic_prior():
    x, scale = _normal(6, 4), torch.tensor([0.5, -1, 2, 0], dtype=torch.float64)
    ours = LESSON["nice_log_prob"](x, [], scale)
    torch.testing.assert_close(ours, LESSON["nice_log_prob"](x, [], scale, "logistic"), rtol=0, atol=0)


@pytest.mark.parametrize("prior", ["logistic", "gaussian"])
def test_priors_are_densities_with_the_right_slope(prior):
    log_prior = LESSON["LOG_PRIOR"][prior]
    h = torch.linspace(-60, 60, 120_001, dtype=torch.float64)
    assert torch.trapezoid(log_prior(h).exp(), h).item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(log_prior(h), log_prior(-h))
    slope = (lambda h: -np.tanh(h / 2)) if prior == "logistic" else (lambda h: -h)
    for at in (-3.0, 0.0, 2.0):
        value = lambda h: log_prior(torch.tensor(h))[0].item()
        assert check_grad(value, slope, [at]) < 1e-6


def _trained(learning_rate, n_iters=40, seed=0):
    """A small NICE after the lesson's training, its curves, its validation data and the weights that it started with."""
    torch.manual_seed(seed)
    model, x = NICE(2, 2, hidden_dim=8), torch.randn(200, 2)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    LESSON["n_iters"] = n_iters
    curves = LESSON["train"](model, lambda: x[:100], x[:100], x[100:], learning_rate)
    return model, curves, x[100:], start


@pytest.mark.parametrize("learning_rate", [1e-3, 10])
def test_training_keeps_the_weights_that_were_best_on_the_validation_data(learning_rate):
    model, (steps, train_curve, validation_curve), validation, _ = _trained(learning_rate)
    assert steps.tolist() == list(range(0, 41, 2))
    assert len(train_curve) == len(steps)
    with torch.no_grad():
        kept = model.log_prob(validation).mean().item()
    assert kept == pytest.approx(validation_curve.max(), abs=1e-6)


@pytest.mark.parametrize("learning_rate", [1e4, 1e30])
def test_training_that_diverges_ends_with_a_sentence_and_the_best_weights_from_before(learning_rate, capsys):
    model, curves, validation, start = _trained(learning_rate)
    assert "diverged by update 2" in capsys.readouterr().out
    assert np.isfinite(curves).all()
    assert len(curves[0]) == 1
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, start[name], rtol=0, atol=0)
    assert torch.isfinite(model.log_prob(validation)).all()


def test_inputs_are_not_modified():
    X = _laplace(4, n=200)
    Z, _ = _white(X)
    arguments = {
        "respond": [X[:30], np.eye(3)],
        "gabor_energy": [X[:40].copy(), 0.1, 0.1, 2],
        "modulation": [np.abs(X[:3]).T[:, :].repeat(3, axis=1)],
        "nearest_rotation": [X[:4, :4]],
        "pooled_ica": [Z, block_neighbourhood(2, 2), np.random.default_rng(0)],
        "group_error": [X[:4], 2],
    }
    for name, values in arguments.items():
        before = [value.copy() if isinstance(value, np.ndarray) else value for value in values]
        LESSON[name](*values)
        for old, new in zip(before, values, strict=True):
            if isinstance(old, np.ndarray):
                np.testing.assert_array_equal(old, new, err_msg=name)
    x = _normal(5, 4)
    before = x.clone()
    LESSON["couple"](x, torch.square, 0)
    LESSON["nice_log_prob"](x, [torch.square, torch.sin], torch.ones(4))
    LESSON["nice_log_prob"](x, [], torch.ones(4))
    assert torch.equal(x, before)


WHITE = _white(_laplace(4, n=100))[0]
REFUSED = {
    "frequency": ("gabor", [0, 0.7, 0, 3], "frequency must lie between 0 and 0.5"),
    "no wave": ("gabor", [0, 0, 0, 3], "frequency must lie between 0 and 0.5"),
    "pixels in step": ("gabor", [0, 0.5, -np.pi / 2, 3], "frequency must lie between 0 and 0.5"),
    "frequency nan": ("gabor", [0, np.nan, 0, 3], "frequency must lie between 0 and 0.5"),
    "width": ("gabor", [0, 0.1, 0, 0], "width above 0"),
    "even side": ("gabor", [0, 0.1, 0, 3, 20], "side be an odd number from 3"),
    "image nan": ("respond", [np.full((9, 9), np.nan), np.eye(3)], "contains NaN"),
    "image flat": ("respond", [np.ones(9), np.eye(3)], "Expected 2D array"),
    "even kernel": ("respond", [np.ones((9, 9)), np.eye(4)], "kernel must be a square with an odd side"),
    "too few phases": ("modulation", [[1, 2, 3, 4]], "at least 5 phases"),
    "mean zero": ("modulation", [np.zeros(8)], "a positive mean"),
    "mean nan": ("modulation", [np.full(8, np.nan)], "a positive mean"),
    "one number": ("modulation", [3.0], "at least 5 phases"),
    "not white": ("pooled_ica", [WHITE * [1, 2, 1, 1], np.eye(4), RNG], "Z must be white"),
    "Z nan": ("pooled_ica", [np.full((9, 2), np.nan), np.eye(2), RNG], "contains NaN"),
    "G too narrow": ("pooled_ica", [WHITE, np.eye(3), RNG], "G must have as many columns as Z"),
    "G nan": ("pooled_ica", [WHITE, np.full((2, 4), np.nan), RNG], "contains NaN"),
    "P not square": ("group_error", [np.ones((4, 6)), 2], "P must be square and invertible"),
    "P singular": ("group_error", [np.ones((4, 4)), 2], "P must be square and invertible"),
    "one group": ("group_error", [np.eye(4), 4], "at least two groups of this size"),
    "size": ("group_error", [np.eye(5), 2], "at least two groups of this size"),
    "keep": ("couple", [torch.ones(3, 2), torch.sin, 2], "keep must be 0"),
    "one row": ("couple", [torch.ones(3), torch.sin, 0], "x must have two dimensions"),
    "x nan": ("nice_log_prob", [torch.full((3, 2), torch.nan), [], torch.zeros(2)], "x must be finite"),
    "a sample alone": ("nice_log_prob", [torch.ones(2), [], torch.zeros(2)], r"of the shape \(n, 2\)"),
    "x too wide": ("nice_log_prob", [torch.ones(3, 5), [], torch.zeros(2)], r"of the shape \(n, 2\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_makes_no_sense_is_refused(case):
    name, arguments, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        LESSON[name](*arguments)
