"""What notebook 10 writes out, against torch, on inputs harder than the lesson's."""

import itertools

import pytest
import scratch
import torch
from torch import nn

from labutils import recurrent, training

LESSON = scratch.load("10_lstm_mnist")
INPUTS = {
    "ordinary": (5, 28, 12, 1.0),
    "a batch of one": (1, 3, 4, 1.0),
    "one feature, one unit": (4, 1, 1, 1.0),
    "zeros": (3, 6, 5, 0.0),
    "saturating": (3, 6, 5, 50.0),
}


def _step(name):
    n, input_dim, hidden_dim, scale = INPUTS[name]
    generator = torch.Generator().manual_seed(0)
    layer = nn.LSTM(input_dim, hidden_dim, batch_first=True, dtype=torch.float64)
    x, h, c = (
        (scale * torch.randn(n, size, generator=generator, dtype=torch.float64)).requires_grad_()
        for size in (input_dim, hidden_dim, hidden_dim)
    )
    return layer, x, h, c


@pytest.mark.parametrize("name", INPUTS)
def test_lstm_step_equals_torch(name):
    layer, x, h, c = _step(name)
    _, (h_torch, c_torch) = layer(x[:, None], (h[None], c[None]))
    h_new, c_new, gates = LESSON["lstm_step"](x, h, c, *layer.parameters())
    torch.testing.assert_close(h_new, h_torch[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(c_new, c_torch[0], rtol=1e-10, atol=1e-12)
    assert len(gates) == 4


@pytest.mark.parametrize("name", INPUTS)
def test_lstm_step_backward_equals_autograd(name):
    layer, x, h, c = _step(name)
    before = [t.detach().clone() for t in (x, h, c)]
    _, (h_torch, c_torch) = layer(x[:, None], (h[None], c[None]))
    dh, dc = torch.randn_like(h), torch.randn_like(c)
    loss = (dh * h_torch[0]).sum() + (dc * c_torch[0]).sum()
    automatic = torch.autograd.grad(loss, [x, h, c, *layer.parameters()])
    with torch.no_grad():
        by_hand = LESSON["lstm_step_backward"](dh, dc, x, h, c, *layer.parameters())
    for ours, theirs in zip(by_hand, automatic, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(t, b) for t, b in zip((x, h, c), before, strict=True))


LAYOUTS = [
    (kind, *layout)
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for layout in itertools.product((1, 2), (False, True), (True, False), (1, 4), (1, 3), (0, 2))
    if not layout[-1] or (kind is nn.LSTM and layout[-1] < layout[-2])  # torch has no other projections
]


@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional", "bias", "features", "hidden", "projection"), LAYOUTS
)
def test_a_step_of_a_layer_of_any_layout_is_right_or_refused(
    kind, layers, bidirectional, bias, features, hidden, projection
):
    """As many sequences as rows of weights, so that the weights of another layer would broadcast as offsets do."""
    torch.manual_seed(0)
    settings = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional, "batch_first": True}
    settings |= {"proj_size": projection} if projection else {}
    layer = kind(features, hidden, **settings, dtype=torch.float64)
    x, h = torch.randn(4 * hidden, features).double(), torch.zeros(4 * hidden, projection or hidden).double()
    c = torch.zeros(4 * hidden, hidden).double()
    if kind is nn.LSTM and layers == 1 and bias and not bidirectional and not projection:
        h_new, c_new, _ = LESSON["lstm_step"](x, h, c, *layer.parameters())
        _, (h_torch, c_torch) = layer(x[:, None])
        torch.testing.assert_close((h_new, c_new), (h_torch[0], c_torch[0]), rtol=1e-10, atol=1e-12)
    else:
        for call in (LESSON["lstm_step"], lambda *given: LESSON["lstm_step_backward"](h, c, *given)):
            with pytest.raises((ValueError, TypeError), match=r"must have the shape|positional argument"):
                call(x, h, c, *layer.parameters())


@pytest.mark.parametrize("name", ["x", "h", "c", "dh", "dc"])
@pytest.mark.parametrize("change", [lambda t: t[None], lambda t: t[:1], lambda t: t[0]])
def test_a_step_refuses_other_shapes(name, change):
    """A whole sequence, one sample for all, a sample without its batch."""
    layer, x, h, c = _step("ordinary")
    given = {"dh": h, "dc": c, "x": x, "h": h, "c": c}
    given[name] = change(given[name])
    for function in ("lstm_step", "lstm_step_backward"):
        used = list(given.values())[0 if "backward" in function else 2 :]
        if "backward" in function or name not in ("dh", "dc"):
            with pytest.raises(ValueError, match=r"must have the shape \("):
                LESSON[function](*used, *layer.parameters())


def test_cell_update_is_the_step_with_given_gates():
    assert LESSON["cell_update"](c=2.0, i=0.5, f=0.25, g=1.0, o=0.0) == (1.0, 0.0)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (5, 8), (1, 1)])
def test_batches_cover_each_epoch_once_and_are_those_of_fit(n, batch_size):
    ours = LESSON["batches"](n, batch_size, torch.Generator().manual_seed(1))
    fits = training.shuffled_batches(n, batch_size, torch.Generator().manual_seed(1))
    per_epoch = -(-n // batch_size)
    for _ in range(2):
        epoch = list(itertools.islice(ours, per_epoch))
        assert torch.cat(epoch).sort().values.tolist() == list(range(n))
        assert all(torch.equal(a, next(fits)) for a in epoch)


@pytest.mark.parametrize("layer_dim", [1, 3])
def test_class_equals_the_packages(layer_dim):
    torch.manual_seed(0)
    ours = LESSON["LSTMModel"](28, 9, layer_dim, 10)
    torch.manual_seed(0)
    package = recurrent.LSTMModel(28, 9, layer_dim, 10)
    x = torch.rand(4, 28, 28)
    assert torch.equal(ours(x), package(x))
