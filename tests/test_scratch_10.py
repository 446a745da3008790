"""What notebook 10 writes out, against torch, on inputs harder than the lesson's."""

import itertools

import numpy as np
import pytest
import scratch
import torch
from torch import nn

from labutils import recurrent

LESSON = scratch.load("10_lstm_mnist")
INPUTS = {
    "ordinary": (5, 28, 12, 1.0),
    "a batch of one": (1, 3, 4, 1.0),
    "one feature, one unit": (4, 1, 1, 1.0),
    "zeros": (3, 6, 5, 0.0),
    "saturating": (3, 6, 5, 50.0),
}


def _step(name, kind=nn.LSTM):
    n, input_dim, hidden_dim, scale = INPUTS[name]
    generator = torch.Generator().manual_seed(0)
    layer = kind(input_dim, hidden_dim, batch_first=True, dtype=torch.float64)
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
def test_gru_step_equals_torch(name):
    layer, x, h, _ = _step(name, nn.GRU)
    _, h_torch = layer(x[:, None], h[None])
    before = [t.detach().clone() for t in (x, h)]
    h_new, gates = LESSON["gru_step"](x, h, *layer.parameters())
    torch.testing.assert_close(h_new, h_torch[0], rtol=1e-10, atol=1e-12)
    assert len(gates) == 3
    assert all(torch.equal(t, b) for t, b in zip((x, h), before, strict=True))


def test_gates_keep_or_replace_the_state():
    """An update gate at 1 keeps the state; at 0, with a reset gate at 0, nothing of the state is left."""
    x, h = torch.zeros(2, 3).double(), torch.randn(2, 4).double()
    weights = [torch.zeros(12, 3).double(), torch.randn(12, 4).double()]
    weights[1][:8] = 0  # gates that see their offsets only
    for update, reset, expected in ((50.0, 0.0, h), (-50.0, -50.0, torch.zeros(2, 4).double())):
        b_ih = torch.tensor([reset] * 4 + [update] * 4 + [0.0] * 4).double()
        h_new, _ = LESSON["gru_step"](x, h, *weights, b_ih, torch.zeros(12).double())
        torch.testing.assert_close(h_new, expected)


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
    plain = layers == 1 and bias and not bidirectional and not projection
    calls = {nn.LSTM: lambda *weights: LESSON["lstm_step"](x, h, c, *weights)[:2]}
    calls[nn.GRU] = lambda *weights: LESSON["gru_step"](x, h, *weights)[:1]
    for cell, call in calls.items():
        if plain and kind is cell:
            _, states = layer(x[:, None])
            expected = [state[0] for state in (states if kind is nn.LSTM else [states])]
            torch.testing.assert_close(list(call(*layer.parameters())), expected, rtol=1e-10, atol=1e-12)
        else:
            with pytest.raises((ValueError, TypeError), match=r"must have the shape|positional argument"):
                call(*layer.parameters())


@pytest.mark.parametrize("name", ["x", "h", "c"])
@pytest.mark.parametrize("change", [lambda t: t[None], lambda t: t[:1], lambda t: t[0]])
def test_a_step_refuses_other_shapes(name, change):
    """A whole sequence, one sample for all, a sample without its batch."""
    for kind, function, names in ((nn.LSTM, "lstm_step", "xhc"), (nn.GRU, "gru_step", "xh")):
        layer, *tensors = _step("ordinary", kind)
        given = dict(zip(names, tensors, strict=False))
        if name in given:
            given[name] = change(given[name])
            with pytest.raises(ValueError, match=r"must have the shape \("):
                LESSON[function](*given.values(), *layer.parameters())


@pytest.mark.parametrize("seed", range(3))
def test_unit_does_at_each_step_what_a_step_of_the_layer_does(seed):
    """The unit's gates and candidates are handed to `lstm_step` through offsets that give them."""
    rng = np.random.default_rng(seed)
    i, f, o = rng.uniform(0.05, 0.95, (3, 12))
    g = rng.uniform(-0.9, 0.9, 12)
    cells, outputs = LESSON["run_unit"](g, i, f, o)
    h = c = torch.zeros(1, 1).double()
    x, W = torch.zeros(1, 1).double(), torch.zeros(4, 1).double()
    for step in range(12):
        logits = [np.log(gate[step] / (1 - gate[step])) for gate in (i, f, o)]
        b = torch.tensor([logits[0], logits[1], np.arctanh(g[step]), logits[2]])
        h, c, _ = LESSON["lstm_step"](x, h, c, W, W, b, torch.zeros(4).double())
        assert cells[step] == pytest.approx(c.item(), abs=1e-12)
        assert outputs[step] == pytest.approx(h.item(), abs=1e-12)


def test_unit_with_open_gates_counts_and_changes_no_input():
    pulses = np.isin(np.arange(28), [3, 7, 11]).astype(float)
    before = pulses.copy()
    cells, outputs = LESSON["run_unit"](pulses)
    np.testing.assert_array_equal(cells, pulses.cumsum())
    np.testing.assert_allclose(outputs, np.tanh(pulses.cumsum()))
    np.testing.assert_array_equal(pulses, before)


@pytest.mark.parametrize("layer_dim", [1, 3])
def test_class_equals_the_packages(layer_dim):
    torch.manual_seed(0)
    ours = LESSON["LSTMModel"](28, 9, layer_dim, 10)
    torch.manual_seed(0)
    package = recurrent.LSTMModel(28, 9, layer_dim, 10)
    x = torch.rand(4, 28, 28)
    assert torch.equal(ours(x), package(x))
