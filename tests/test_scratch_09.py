"""What notebook 09 writes out, against torch, on inputs harder than the lesson's."""

import itertools

import numpy as np
import pytest
import scratch
import torch
from torch import nn

from labutils import recurrent

LESSON = scratch.load("09_rnn_mnist")
INPUTS = {  # batch, steps, features, hidden units, scale of the inputs
    "ordinary": (5, 7, 4, 6, 1.0),
    "a batch of one": (1, 7, 4, 6, 1.0),
    "one step": (3, 1, 4, 6, 1.0),
    "one feature, one unit": (4, 9, 1, 1, 1.0),
    "zeros": (3, 5, 4, 6, 0.0),
    "saturating": (3, 5, 4, 6, 50.0),
    "a long sequence": (2, 200, 3, 5, 1.0),
}
NONLINEARITIES = ("tanh", "relu")


def _layer(name, nonlinearity):
    n, steps, input_dim, hidden_dim, scale = INPUTS[name]
    torch.manual_seed(0)
    layer = nn.RNN(input_dim, hidden_dim, batch_first=True, nonlinearity=nonlinearity, dtype=torch.float64)
    x = (scale * torch.randn(n, steps, input_dim, dtype=torch.float64)).requires_grad_()
    h = (scale * torch.randn(n, hidden_dim, dtype=torch.float64)).requires_grad_()
    return layer, x, h


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("name", INPUTS)
def test_forward_equals_torch_at_every_step(name, nonlinearity):
    layer, x, h = _layer(name, nonlinearity)
    states = LESSON["rnn_forward"](x, h, *layer.parameters(), nonlinearity)
    assert torch.equal(states[:, 0], h)
    torch.testing.assert_close(states[:, 1:], layer(x, h[None])[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("name", INPUTS)
def test_backward_equals_autograd(name, nonlinearity):
    layer, x, h = _layer(name, nonlinearity)
    dh = torch.randn_like(h)
    given = [x, h, dh, *layer.parameters()]
    before = [t.detach().clone() for t in given]
    inputs = [x, h, *layer.parameters()]
    automatic = torch.autograd.grad((dh * layer(x, h[None])[0][:, -1]).sum(), inputs)
    with torch.no_grad():
        states = LESSON["rnn_forward"](*inputs, nonlinearity)
        by_hand = LESSON["rnn_backward"](dh, x, states, *inputs[2:4], nonlinearity)
    for ours, theirs in zip(by_hand, automatic, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(t, b) for t, b in zip(given, before, strict=True))


def test_a_scalar_linear_unit_multiplies_the_gradient_by_w_at_each_step():
    """A positive ReLU unit is linear: the gradient k steps back is w to the power of k."""
    one = torch.ones(1, 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    x, w = torch.ones(1, 28, 1, dtype=torch.float64), 1.1 * one
    states = LESSON["rnn_forward"](x, one, one, w, zero, zero, "relu")
    dx, dh, *_ = LESSON["rnn_backward"](one, x, states, one, w, "relu")
    np.testing.assert_allclose(dx.flatten(), 1.1 ** np.arange(27, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(dh.item(), 1.1**28, rtol=1e-12)


def test_the_nonlinearity_is_tanh_unless_told_otherwise_as_in_torch():
    layer, x, h = _layer("ordinary", "tanh")
    with torch.no_grad():
        states = LESSON["rnn_forward"](x, h, *layer.parameters())
        torch.testing.assert_close(states[:, 1:], layer(x, h[None])[0], rtol=1e-10, atol=1e-12)
        weights = layer.weight_ih_l0, layer.weight_hh_l0
        dh = torch.ones_like(h)
        by_default = LESSON["rnn_backward"](dh, x, states, *weights)
        told = LESSON["rnn_backward"](dh, x, states, *weights, "tanh")
    assert all(torch.equal(a, b) for a, b in zip(by_default, told, strict=True))


@pytest.mark.parametrize("shape", [(4, 3), (2, 0, 3), (3,)])
def test_sequences_of_another_shape_are_refused(shape):
    layer, _, h = _layer("ordinary", "tanh")
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, T, features\) with T > 0, got"):
        LESSON["rnn_forward"](torch.zeros(shape, dtype=torch.float64), h, *layer.parameters())


def test_an_unknown_nonlinearity_is_refused():
    layer, x, h = _layer("ordinary", "tanh")
    with pytest.raises(ValueError, match="nonlinearity must be tanh or relu, got 'gelu'"):
        LESSON["rnn_forward"](x, h, *layer.parameters(), "gelu")
    states = LESSON["rnn_forward"](x, h, *layer.parameters())
    with pytest.raises(ValueError, match="nonlinearity must be tanh or relu, got 'gelu'"):
        LESSON["rnn_backward"](h, x, states, layer.weight_ih_l0, layer.weight_hh_l0, "gelu")


LAYOUTS = list(itertools.product((True, False), (1, 2), (False, True), (True, False), (1, 4), (1, 6)))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(("batch_first", "layers", "bidirectional", "bias", "features", "hidden"), LAYOUTS)
def test_forward_of_a_layer_of_any_layout_is_right_or_refused(
    batch_first, layers, bidirectional, bias, features, hidden, kind
):
    """As many sequences as units, so that the weights of another layer would broadcast as offsets do."""
    torch.manual_seed(0)
    settings = {
        "num_layers": layers,
        "bias": bias,
        "batch_first": batch_first,
        "bidirectional": bidirectional,
    }
    layer = kind(features, hidden, **settings, dtype=torch.float64)
    x = torch.randn((hidden, 7, features) if batch_first else (7, hidden, features), dtype=torch.float64)
    h = torch.zeros(hidden, hidden, dtype=torch.float64)
    if kind is nn.RNN and batch_first and layers == 1 and bias and not bidirectional:
        states = LESSON["rnn_forward"](x, h, *layer.parameters())
        torch.testing.assert_close(states[:, 1:], layer(x)[0], rtol=1e-10, atol=1e-12)
    else:
        with pytest.raises((ValueError, TypeError), match=r"must have the shape|positional argument"):
            LESSON["rnn_forward"](x, h, *layer.parameters())


@pytest.mark.parametrize("hidden", [1, 6])
def test_backward_refuses_what_is_not_of_one_layer(hidden):
    torch.manual_seed(0)
    x, h = torch.randn(5, 7, 4), torch.zeros(5, hidden)
    layer = nn.RNN(4, hidden, batch_first=True)
    weights = layer.weight_ih_l0, layer.weight_hh_l0
    states = LESSON["rnn_forward"](x, h, *layer.parameters())
    for dh, given, of, named in (
        (h[:1], states, weights, "dh"),
        (h[None], states, weights, "dh"),
        (h, states[:, 1:], weights, "states"),
        (h, states.transpose(0, 1), weights, "states"),
        (h, layer(x)[0], weights, "states"),  # torch's, which leave out h_0
        (h, states, (weights[1], weights[1]), "W_ih"),
        (h, states, (weights[0], weights[0]), "W_hh"),
    ):
        with pytest.raises(ValueError, match=f"^{named} must have the shape"):
            LESSON["rnn_backward"](dh, x, given, *of)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("number", [0, 1])
def test_central_differences_of_functions_with_a_known_gradient(shape, number):
    """Each of two inputs in turn, of different shapes; neither is changed."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(5, generator=generator, dtype=torch.float64)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = (v, w)
    before = [tensor.clone() for tensor in inputs]
    gradient = LESSON["central_differences"](
        lambda v, w: (v**2).sum() * ((w**3).sum() + torch.sin(w).sum()), inputs, number
    )
    expected = (
        2 * v * ((w**3).sum() + torch.sin(w).sum()),
        (v**2).sum() * (3 * w**2 + torch.cos(w)),
    )
    torch.testing.assert_close(gradient, expected[number], rtol=1e-7, atol=1e-7)
    assert all(torch.equal(tensor, old) for tensor, old in zip(inputs, before, strict=True))


def test_central_differences_refuse_single_precision():
    with pytest.raises(ValueError, match=r"need float64, got torch\.float32"):
        LESSON["central_differences"](torch.sum, [torch.zeros(2)], 0)


@pytest.mark.parametrize(("layer_dim", "nonlinearity"), [(1, "relu"), (2, "relu"), (2, "tanh")])
def test_class_equals_the_packages(layer_dim, nonlinearity):
    torch.manual_seed(0)
    ours = LESSON["RNNModel"](28, 9, layer_dim, 10, nonlinearity)
    torch.manual_seed(0)
    package = recurrent.RNNModel(28, 9, layer_dim, 10, nonlinearity)
    x = torch.rand(4, 28, 28)
    assert torch.equal(ours(x), package(x))
