"""What notebook 12 writes out, against autograd, torch and closed forms, on inputs harder than the lesson's."""

import itertools

import numpy as np
import pytest
import scratch
import torch
from torch import nn

LESSON = scratch.load("12_long_term_dependencies")
INPUTS = {  # batch, steps, features, hidden units, scale of inputs and weights
    "ordinary": (5, 12, 2, 7, 1.0),
    "a batch of one": (1, 6, 3, 4, 1.0),
    "one step": (3, 1, 2, 4, 1.0),
    "one feature, one unit": (4, 9, 1, 1, 1.0),
    "zeros": (3, 5, 2, 4, 0.0),
    "saturating": (3, 5, 2, 4, 30.0),
    "exploding": (2, 60, 2, 8, 4.0),
    "a long sequence": (2, 300, 2, 5, 1.0),
}
KINDS = ("tanh", "relu", "lstm")


def _layer(name, kind):
    n, T, features, hidden, scale = INPUTS[name]
    torch.manual_seed(0)
    settings = {"batch_first": True, "dtype": torch.float64}
    if kind == "lstm":
        layer = nn.LSTM(features, hidden, **settings)
    else:
        layer = nn.RNN(features, hidden, nonlinearity=kind, **settings)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(scale)
    x = scale * torch.randn(n, T, features, dtype=torch.float64)
    return layer, x, torch.randn(n, hidden, dtype=torch.float64)


def _from_the_start(layer, x, v, lag):
    """Length of the gradient at one lag: start the layer anew from that state, as a leaf of the graph."""
    T = x.shape[1]
    before = T - lag
    with torch.no_grad():
        _, state = layer(x[:, :before])
    parts = [part.clone().requires_grad_() for part in (state if isinstance(state, tuple) else (state,))]
    start = tuple(parts) if len(parts) == 2 else parts[0]
    last = layer(x[:, before:], start)[0][:, -1] if lag else parts[0][-1]
    gradients = torch.autograd.grad((v * last).sum(), parts, allow_unused=True)
    return sum(g.square().sum(dim=(0, 2)) for g in gradients if g is not None).sqrt().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", INPUTS)
def test_state_gradients_are_those_of_a_layer_started_from_that_state(name, kind):
    layer, x, v = _layer(name, kind)
    before = x.clone(), v.clone()
    lengths = LESSON["state_gradients"](layer, x, v)
    assert lengths.shape == (x.shape[1],)
    torch.testing.assert_close(lengths[0], v.norm(dim=1).mean())
    for lag in range(0, x.shape[1], max(1, x.shape[1] // 5)):
        torch.testing.assert_close(lengths[lag], _from_the_start(layer, x, v, lag), rtol=1e-8, atol=1e-300)
    assert torch.equal(x, before[0])
    assert torch.equal(v, before[1])
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("name", INPUTS)
def test_product_of_jacobians_equals_autograd(name, kind):
    layer, x, v = _layer(name, kind)
    before = v.clone()
    with torch.no_grad():
        by_hand = LESSON["jacobian_product"](layer, x, v)
    # 1 - h**2 loses digits where a unit saturates, and autograd rounds it in another order: hence not 1e-9
    torch.testing.assert_close(by_hand, LESSON["state_gradients"](layer, x, v), rtol=1e-7, atol=1e-300)
    assert torch.equal(v, before)


def test_a_scalar_linear_unit_multiplies_the_gradient_by_w_at_each_step():
    """A positive ReLU unit is linear: at lag k the gradient is w to the power of k."""
    layer = nn.RNN(1, 1, nonlinearity="relu", batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (1.0, 0.9, 0.0, 0.0), strict=True):
            parameter.fill_(value)
    one = torch.ones(1, 1, dtype=torch.float64)
    lengths = LESSON["state_gradients"](layer, torch.ones(1, 40, 1, dtype=torch.float64), one)
    np.testing.assert_allclose(lengths, 0.9 ** np.arange(40), rtol=1e-12)


def test_the_gradient_never_exceeds_the_norm_of_the_weights_to_the_power_of_the_lag():
    """The bound of Pascanu, Mikolov and Bengio."""
    layer, x, v = _layer("ordinary", "tanh")
    norm = torch.linalg.matrix_norm(layer.weight_hh_l0.detach(), 2)
    bound = v.norm(dim=1).mean() * norm ** torch.arange(x.shape[1])
    assert (LESSON["state_gradients"](layer, x, v) <= bound * (1 + 1e-12)).all()


BAD_SHAPES = {
    "x without a batch": ((5, 2), (5, 7)),
    "other features": ((5, 3, 4), (5, 7)),
    "no step": ((5, 0, 2), (5, 7)),
    "another number of units": ((5, 3, 2), (5, 6)),
    "another batch": ((5, 3, 2), (4, 7)),
    "a layer more": ((5, 3, 2), (1, 5, 7)),
    "one for all": ((5, 3, 2), (7,)),
}


@pytest.mark.parametrize("function", ["state_gradients", "jacobian_product"])
@pytest.mark.parametrize("name", BAD_SHAPES)
def test_other_shapes_are_refused(name, function):
    layer, _, _ = _layer("ordinary", "tanh")
    x, v = (torch.zeros(shape).double() for shape in BAD_SHAPES[name])
    with pytest.raises(ValueError, match=r"[xv] must have the shape \(batch, .*, got \("):
        LESSON[function](layer, x, v)


LAYOUTS = [
    {
        "batch_first": batch_first,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
        "bias": bias,
        "proj_size": proj,
    }
    for batch_first, num_layers, bidirectional, bias, proj in itertools.product(
        (True, False), (1, 2), (False, True), (True, False), (0, 3)
    )
]


def _of_layout(kind, layout, n=5):
    """A layer of any layout, with as many sequences as steps if n is 5; None if torch has no such layer."""
    torch.manual_seed(0)
    settings = {**layout, "dtype": torch.float64}
    if kind != "LSTM" and settings.pop("proj_size"):
        return None
    if kind in ("tanh", "relu"):
        settings["nonlinearity"] = kind
    layer = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(kind, nn.RNN)(2, 7, **settings)
    hidden = layout["proj_size"] or 7
    return layer, torch.randn(n, 5, 2, dtype=torch.float64), torch.randn(n, hidden, dtype=torch.float64)


def _readable(layout, *, single):
    simple = layout["num_layers"] == 1 and not layout["proj_size"]
    return layout["batch_first"] and not layout["bidirectional"] and (simple or not single)


REFUSALS = (
    r"layer must (read in one direction, and have batch_first=True|be a single one without a projection, got)"
)


@pytest.mark.parametrize("n", [5, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "relu", "GRU", "LSTM"])
def test_state_gradients_of_a_layer_of_any_layout_are_right_or_refused(kind, layout, n):
    made = _of_layout(kind, layout, n)
    if made and _readable(layout, single=False):
        lengths = LESSON["state_gradients"](*made)
        for lag in range(5):
            torch.testing.assert_close(lengths[lag], _from_the_start(*made, lag), rtol=1e-9, atol=0)
    elif made:
        with pytest.raises(ValueError, match=REFUSALS):
            LESSON["state_gradients"](*made)


@pytest.mark.parametrize("n", [5, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "relu", "GRU", "LSTM"])
def test_product_of_jacobians_of_a_layer_of_any_layout_is_right_or_refused(kind, layout, n):
    made = _of_layout(kind, layout, n)
    if kind in ("GRU", "LSTM") and made:
        with pytest.raises(TypeError, match=rf"layer must be an nn\.RNN, got {kind}"):
            LESSON["jacobian_product"](*made)
    elif made and _readable(layout, single=True):
        with torch.no_grad():
            by_hand = LESSON["jacobian_product"](*made)
        expected = [_from_the_start(*made, lag) for lag in range(5)]
        torch.testing.assert_close(by_hand, torch.stack(expected), rtol=1e-9, atol=0)
    elif made:
        with pytest.raises(ValueError, match=REFUSALS):
            LESSON["jacobian_product"](*made)


@pytest.mark.parametrize("n", [5, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM"])
def test_gates_of_a_layer_of_any_layout_are_right_or_refused(kind, layout, n):
    made = _of_layout(kind, layout, n)
    if kind != "LSTM" and made:
        with pytest.raises(TypeError, match=r"layer must be an nn\.LSTM, got"):
            LESSON["lstm_gates"](*made[:2])
    elif made and _readable(layout, single=True):
        layer, x, _ = made
        with torch.no_grad():
            steps, (states, (_, c)) = LESSON["lstm_gates"](layer, x), layer(x)
        torch.testing.assert_close(steps["h"], states, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(steps["c"][:, -1], c[0], rtol=1e-10, atol=1e-12)
    elif made:
        with pytest.raises(ValueError, match=REFUSALS):
            LESSON["lstm_gates"](*made[:2])


@pytest.mark.parametrize("name", INPUTS)
def test_lstm_unrolled_by_hand_equals_torch_at_every_step(name):
    layer, x, _ = _layer(name, "lstm")
    before = x.clone()
    with torch.no_grad():
        steps = LESSON["lstm_gates"](layer, x)
        states, (_, c) = layer(x)
    assert {letter: values.shape for letter, values in steps.items()} == dict.fromkeys("ifgoch", states.shape)
    torch.testing.assert_close(steps["h"], states, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(steps["c"][:, -1], c[0], rtol=1e-10, atol=1e-12)
    assert all(((values >= 0) & (values <= 1)).all() for values in (steps[gate] for gate in "ifo"))
    assert torch.equal(x, before)


def test_the_gates_are_told_apart():
    """A bias on one block alone saturates that gate and no other."""
    for number, letter in enumerate("ifgo"):
        layer, x, _ = _layer("ordinary", "lstm")
        with torch.no_grad():
            layer.bias_ih_l0[7 * number : 7 * (number + 1)] += 50
            steps = LESSON["lstm_gates"](layer, x)
        assert [name for name in "ifgo" if (steps[name] > 0.999).all()] == [letter]


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 0, 2)])
def test_lstm_gates_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, T, 2\) with T > 0, got"):
        LESSON["lstm_gates"](nn.LSTM(2, 3, batch_first=True), torch.zeros(shape))
