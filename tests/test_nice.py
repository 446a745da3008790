"""NICE against autograd's Jacobian, closed forms and integration."""

import io

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import make_moons

from labutils.factor_models import NICE

SHAPES = [(2, 2), (2, 5), (3, 4), (7, 3), (64, 4)]  # features, couplings
DENSITY = {"logistic": stats.logistic, "gaussian": stats.norm}


def _bent(n_features, n_couplings=4, prior="logistic", seed=0, dtype=torch.float64):
    """A model far from the identity."""
    torch.manual_seed(seed)
    model = NICE(n_features, n_couplings, hidden_dim=16, prior=prior).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def _inputs(n, n_features, dtype=torch.float64, scale=1.0):
    return scale * torch.randn(n, n_features, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("n_features", "n_couplings"), SHAPES)
def test_inverse_undoes_forward_and_forward_inverse(n_features, n_couplings, dtype, tolerance):
    model = _bent(n_features, n_couplings, dtype=dtype)
    x = _inputs(100, n_features, dtype)
    with torch.no_grad():
        h = model(x)
        assert (h - x).abs().max() > 0.1
        torch.testing.assert_close(model.inverse(h), x, rtol=0, atol=tolerance)
        torch.testing.assert_close(model(model.inverse(x)), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("prior", DENSITY)
@pytest.mark.parametrize(("n_features", "n_couplings"), SHAPES)
def test_log_density_is_the_priors_plus_the_log_determinant_that_autograd_finds(
    n_features, n_couplings, prior
):
    model = _bent(n_features, n_couplings, prior)
    x = _inputs(5, n_features)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(x)
    log_determinant = torch.linalg.slogdet(jacobians).logabsdet
    expected = DENSITY[prior].logpdf(model(x).detach()).sum(axis=1) + log_determinant.detach().numpy()
    np.testing.assert_allclose(model.log_prob(x).detach(), expected, rtol=1e-10, atol=1e-10)


def test_couplings_leave_volumes_as_they_are():
    model = _bent(5)
    with torch.no_grad():
        model.log_scale.zero_()
    jacobian = torch.func.jacrev(lambda row: model(row[None])[0])(_inputs(1, 5)[0])
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("prior", DENSITY)
def test_density_integrates_to_one(prior):
    model = _bent(2, 3, prior)
    with torch.no_grad():
        model.log_scale.fill_(1.0)
        side = torch.linspace(-25, 25, 801, dtype=torch.float64)
        density = model.log_prob(torch.cartesian_prod(side, side)).exp()
    assert density.sum().item() * (side[1] - side[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("prior", DENSITY)
def test_untrained_model_is_the_identity_with_independent_scaled_features(prior):
    model = NICE(5, prior=prior).double()
    x = _inputs(50, 5, scale=3.0)
    torch.testing.assert_close(model(x), x, rtol=0, atol=0)
    scales = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)
    with torch.no_grad():
        model.log_scale.copy_(-scales.log())
    expected = DENSITY[prior].logpdf(x, scale=scales).sum(axis=1)
    np.testing.assert_allclose(model.log_prob(x).detach(), expected, rtol=1e-12)


def test_log_density_stays_finite_far_away():
    x = torch.tensor([[1e4, -1e4], [-80.0, 90.0]])
    np.testing.assert_allclose(NICE(2).log_prob(x).detach(), [-2e4, -170], rtol=1e-6)


@pytest.mark.parametrize("prior", DENSITY)
def test_samples_come_from_the_prior_through_the_inverse(prior):
    model = _bent(4, prior=prior)
    x = model.sample(20_000, torch.Generator().manual_seed(0))
    assert x.shape == (20_000, 4)
    assert x.dtype == torch.float64
    assert not x.requires_grad
    h = model(x).detach().numpy()
    for column in h.T:
        assert stats.kstest(column, DENSITY[prior].cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(h.T), np.eye(4), atol=0.03)


def test_samples_depend_on_the_generator_and_on_nothing_else():
    model = _bent(3)
    first = model.sample(5, torch.Generator().manual_seed(0))
    torch.manual_seed(99)
    second = model.sample(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (model.sample(5, torch.Generator().manual_seed(1)) != first).any()
    torch.manual_seed(5)
    by_default = model.sample(5)
    torch.manual_seed(5)
    torch.testing.assert_close(model.sample(5), by_default, rtol=0, atol=0)


def test_a_uniform_number_of_zero_gives_no_infinite_sample(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda size, **options: torch.zeros(size))
    assert torch.isfinite(NICE(2).sample(3)).all()


def test_every_parameter_gets_a_gradient():
    model = _bent(4)
    model.log_prob(_inputs(20, 4)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_training_finds_what_a_gaussian_cannot_describe():
    X, _ = make_moons(2000, noise=0.1, random_state=0)
    x = torch.tensor((X - X.mean(axis=0)) / X.std(axis=0), dtype=torch.float32)
    gaussian = stats.multivariate_normal(cov=np.cov(x.numpy().T)).logpdf(x.numpy()).mean()
    torch.manual_seed(0)
    model = NICE(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for start in range(0, 80_000, 200):
        loss = -model.log_prob(x[torch.arange(start, start + 200) % len(x)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.log_prob(x).mean().item() > gaussian + 0.2


def test_weights_survive_saving():
    model, file = _bent(5), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = NICE(5, hidden_dim=16).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = _inputs(4, 5)
    torch.testing.assert_close(other.log_prob(x), model.log_prob(x), rtol=0, atol=0)


def test_inputs_are_not_modified():
    model, x = _bent(3), _inputs(4, 3)
    before = x.clone()
    model(x), model.inverse(x), model.log_prob(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_features": 1}, "n_features must be an integer of at least 2, got 1"),
        ({"n_features": 2.5}, "n_features must be an integer of at least 2, got 2.5"),
        ({"n_features": 2, "n_couplings": 1}, "n_couplings must be an integer of at least 2"),
        ({"n_features": 2, "hidden_dim": 0}, "hidden_dim must be a positive integer"),
        ({"n_features": 2, "n_hidden": True}, "n_hidden must be a positive integer"),
        ({"n_features": 2, "prior": "uniform"}, "prior must be one of logistic, gaussian, got 'uniform'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        NICE(**arguments)


@pytest.mark.parametrize("method", ["forward", "log_prob", "inverse"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(5), r"must be a tensor of shape \(n, 3\), got \(5,\)"),
        (torch.zeros(5, 4), r"must be a tensor of shape \(n, 3\), got \(5, 4\)"),
        (np.zeros((5, 3)), r"must be a tensor of shape \(n, 3\), got ndarray"),
        (
            torch.zeros(5, 3, dtype=torch.float64),
            "must have the model's dtype, torch.float32, got torch.float64",
        ),
        (torch.zeros(5, 3, dtype=torch.int64), "must have the model's dtype"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(method, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        getattr(NICE(3), method)(values)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_number_of_samples_that_makes_no_sense_is_refused(n):
    with pytest.raises(ValueError, match="n must be a positive integer"):
        NICE(2).sample(n)
