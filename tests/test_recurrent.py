"""The recurrent classifiers: their shapes, their mathematics, their initial state."""

import math

import pytest
import torch
from torch import nn

from labutils.recurrent import (
    BidirectionalLSTMModel,
    GRUModel,
    LSTMModel,
    RNNModel,
    set_forget_bias,
    set_input_weights,
    set_recurrent_weights,
)

MODELS = [RNNModel, LSTMModel, GRUModel, BidirectionalLSTMModel]
IN_ONE_DIRECTION = MODELS[:3]
BLOCKS = {RNNModel: 1, LSTMModel: 4, GRUModel: 3}


def parameter_shapes(gates, layers):
    shapes = []
    for layer in range(layers):
        rows = 100 * gates
        shapes += [(rows, 28 if layer == 0 else 100), (rows, 100), (rows,), (rows,)]
    return [*shapes, (10, 100), (10,)]


@pytest.mark.parametrize(
    ("kind", "gates", "layers", "total"),
    [
        (LSTMModel, 4, 1, 53_010),
        (LSTMModel, 4, 2, 133_810),
        (LSTMModel, 4, 3, 214_610),
        (GRUModel, 3, 1, 40_010),
        (GRUModel, 3, 2, 100_610),
        (RNNModel, 1, 1, 14_010),
        (RNNModel, 1, 2, 34_210),
        (RNNModel, 1, 3, 54_410),
    ],
)
def test_parameters(kind, gates, layers, total):
    parameters = list(kind(28, 100, layers, 10).parameters())
    assert [tuple(p.shape) for p in parameters] == parameter_shapes(gates, layers)
    assert sum(p.numel() for p in parameters) == total
    assert all(p.requires_grad for p in parameters)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("steps", [1, 28])
def test_output_shape(kind, batch, steps):
    scores = kind(28, 100, 2, 10)(torch.rand(batch, steps, 28))
    assert scores.shape == (batch, 10)
    assert scores.dtype == torch.float32


def rnn_from_zeros(model, x):
    """The usual way of writing it: a state of zeros that asks for gradients, detached at once."""
    h0 = torch.zeros(model.rnn.num_layers, len(x), model.rnn.hidden_size).requires_grad_()
    states, _ = model.rnn(x, h0.detach())
    return model.fc(states[:, -1, :])


def lstm_from_zeros(model, x):
    h0 = torch.zeros(model.lstm.num_layers, len(x), model.lstm.hidden_size).requires_grad_()
    c0 = torch.zeros(model.lstm.num_layers, len(x), model.lstm.hidden_size).requires_grad_()
    states, _ = model.lstm(x, (h0.detach(), c0.detach()))
    return model.fc(states[:, -1, :])


@pytest.mark.parametrize(("kind", "explicit"), [(RNNModel, rnn_from_zeros), (LSTMModel, lstm_from_zeros)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_explicit_zeros_bit_for_bit(kind, explicit, layers):
    torch.manual_seed(0)
    model = kind(28, 32, layers, 10)
    x, y = torch.rand(9, 28, 28), torch.arange(9)
    outputs, gradients = [], []
    for forward in (model, lambda x: explicit(model, x)):
        model.zero_grad()
        scores = forward(x)
        nn.functional.cross_entropy(scores, y).backward()
        outputs.append(scores.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert torch.equal(*outputs)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.abs().sum() > 0


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_rnn_by_hand(nonlinearity):
    torch.manual_seed(1)
    model, x = RNNModel(3, 5, 1, 2, nonlinearity), torch.randn(4, 6, 3)
    rnn, h = model.rnn, torch.zeros(4, 5)
    for t in range(6):
        drive = x[:, t] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
        h = getattr(torch, nonlinearity)(drive)
    torch.testing.assert_close(model(x), h @ model.fc.weight.T + model.fc.bias)


def test_rnn_is_relu_unless_told():
    assert RNNModel(3, 5, 1, 2).rnn.nonlinearity == "relu"


def test_lstm_by_hand():
    torch.manual_seed(1)
    model, x = LSTMModel(3, 5, 1, 2), torch.randn(4, 6, 3)
    lstm, h, c = model.lstm, torch.zeros(4, 5), torch.zeros(4, 5)
    for t in range(6):
        drive = x[:, t] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, g, o = drive.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    torch.testing.assert_close(model(x), h @ model.fc.weight.T + model.fc.bias)


def test_gru_by_hand():
    torch.manual_seed(1)
    model, x = GRUModel(3, 5, 1, 2), torch.randn(4, 6, 3)
    gru, h = model.gru, torch.zeros(4, 5)
    for t in range(6):
        r_in, z_in, n_in = (x[:, t] @ gru.weight_ih_l0.T + gru.bias_ih_l0).chunk(3, dim=1)
        r_state, z_state, n_state = (h @ gru.weight_hh_l0.T + gru.bias_hh_l0).chunk(3, dim=1)
        r, z = (r_in + r_state).sigmoid(), (z_in + z_state).sigmoid()
        h = (1 - z) * (n_in + r * n_state).tanh() + z * h
    torch.testing.assert_close(model(x), h @ model.fc.weight.T + model.fc.bias)


@pytest.mark.parametrize("layers", [1, 2])
def test_bidirectional_reads_the_state_in_which_each_direction_ends(layers):
    torch.manual_seed(1)
    model, x = BidirectionalLSTMModel(3, 5, layers, 2), torch.randn(4, 6, 3)
    _, (last, _) = model.lstm(x)
    forwards, backwards = last[-2:]  # torch's own bookkeeping
    expected = torch.cat([forwards, backwards], dim=1) @ model.fc.weight.T + model.fc.bias
    torch.testing.assert_close(model(x), expected)


def test_bidirectional_is_one_lstm_on_the_sequence_and_one_on_its_mirror():
    torch.manual_seed(1)
    model, x = BidirectionalLSTMModel(3, 5, 1, 2), torch.randn(4, 6, 3)
    alone = nn.LSTM(3, 5, batch_first=True)
    ends = []
    for suffix, sequence in (("", x), ("_reverse", x.flip(1))):
        for name, parameter in alone.named_parameters():
            parameter.data = getattr(model.lstm, name + suffix).data
        ends.append(alone(sequence)[0][:, -1, :])
    torch.testing.assert_close(model(x), model.fc(torch.cat(ends, dim=1)))


@pytest.mark.parametrize("kind", MODELS)
def test_state_is_made_anew_for_every_batch(kind):
    torch.manual_seed(0)
    model, x = kind(4, 6, 2, 3), torch.rand(5, 7, 4)
    first = model(x)
    model(torch.rand(2, 9, 4))
    assert torch.equal(model(x), first)


@pytest.mark.parametrize("kind", MODELS)
def test_every_step_reaches_the_scores(kind):
    torch.manual_seed(0)
    x = torch.rand(1, 6, 4, requires_grad=True)
    kind(4, 16, 1, 3)(x).sum().backward()
    assert (x.grad.abs().sum(dim=2) > 0).all()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("value", [0, -1, 2.5, "28", None, True])
def test_bad_dimension_is_refused(kind, at, value):
    dimensions = [28, 100, 1, 10]
    dimensions[at] = value
    name = ("input_dim", "hidden_dim", "layer_dim", "output_dim")[at]
    with pytest.raises(ValueError, match=f"^{name} must be a positive integer, got") as caught:
        kind(*dimensions)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["ReLU", "sigmoid", "", None])
def test_bad_nonlinearity_is_refused(value):
    with pytest.raises(ValueError, match="nonlinearity must be 'relu' or 'tanh', got") as caught:
        RNNModel(28, 100, 1, 10, value)
    assert repr(value) in str(caught.value)


def forget_gates(model, layer):
    """Forget gates of one layer at zero input and zero hidden state: how much of a cell state of 1 is kept."""
    cell = nn.LSTMCell(getattr(model.lstm, f"weight_ih_l{layer}").shape[1], model.lstm.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(model.lstm, f"{name}_l{layer}").data
    x, zeros = torch.zeros(1, cell.input_size), torch.zeros(1, cell.hidden_size)
    with torch.no_grad():
        _, kept = cell(x, (zeros, zeros + 1))
        _, made = cell(x, (zeros, zeros))
    return kept - made


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("value", [1, -2.0, 0.0])
def test_forget_bias_opens_the_forget_gate(layers, value):
    torch.manual_seed(0)
    model = LSTMModel(4, 8, layers, 3)
    assert set_forget_bias(model, value) is model
    for layer in range(layers):
        expected = torch.full((1, 8), 1 / (1 + math.exp(-value)))
        torch.testing.assert_close(forget_gates(model, layer), expected)


def test_forget_bias_changes_exactly_the_forget_quarter():
    torch.manual_seed(0)
    model = LSTMModel(4, 8, 2, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_forget_bias(model, 1.0)
    for name, p in model.named_parameters():
        expected = before[name]
        if "bias_ih" in name or "bias_hh" in name:
            expected[8:16] = 1.0 if "bias_ih" in name else 0.0
        assert torch.equal(p, expected), name
        assert p.requires_grad


def test_set_forget_bias_refuses_what_has_no_forget_gate_and_what_is_not_finite():
    with pytest.raises(TypeError, match="only an LSTMModel has forget gates, got RNNModel"):
        set_forget_bias(RNNModel(2, 3, 1, 2), 1.0)
    with pytest.raises(ValueError, match="value must be a finite number, got nan"):
        set_forget_bias(LSTMModel(2, 3, 1, 2), float("nan"))


def recurrent_layers(model):
    return next(getattr(model, name) for name in ("rnn", "lstm", "gru") if hasattr(model, name))


def recurrent_blocks(model):
    layers = recurrent_layers(model)
    for layer in range(layers.num_layers):
        yield from getattr(layers, f"weight_hh_l{layer}").split(layers.hidden_size)


@pytest.mark.parametrize("kind", IN_ONE_DIRECTION)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal_recurrent_weights(kind, gain):
    torch.manual_seed(0)
    model = set_recurrent_weights(kind(4, 20, 2, 3), "orthogonal", gain=gain)
    blocks = list(recurrent_blocks(model))
    assert len(blocks) == 2 * BLOCKS[kind]
    for block in blocks:
        torch.testing.assert_close(block @ block.T, gain**2 * torch.eye(20), atol=1e-5, rtol=0)
    assert not torch.equal(blocks[0], blocks[1])


def test_identity_recurrent_weights_come_without_biases():
    model = set_recurrent_weights(RNNModel(4, 20, 2, 3), "identity")
    for layer in range(2):
        assert torch.equal(getattr(model.rnn, f"weight_hh_l{layer}"), torch.eye(20))
        assert not getattr(model.rnn, f"bias_hh_l{layer}").any()
        assert not getattr(model.rnn, f"bias_ih_l{layer}").any()
        assert getattr(model.rnn, f"weight_ih_l{layer}").any()


def test_gaussian_recurrent_weights_have_the_spectral_radius_of_the_gain():
    torch.manual_seed(0)
    model = set_recurrent_weights(RNNModel(4, 400, 1, 3), "gaussian", gain=1.5)
    assert torch.linalg.eigvals(model.rnn.weight_hh_l0).abs().max().item() == pytest.approx(1.5, rel=0.1)


def test_recurrent_weights_come_from_the_global_generator():
    drawn = []
    for seed in (1, 1, 2):
        model = RNNModel(4, 20, 1, 3)
        torch.manual_seed(seed)
        drawn.append(set_recurrent_weights(model, "gaussian").rnn.weight_hh_l0)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_recurrent_weights_still_train():
    model = set_recurrent_weights(LSTMModel(4, 5, 1, 3), "orthogonal")
    model(torch.rand(2, 6, 4)).sum().backward()
    assert model.lstm.weight_hh_l0.grad.any()


def test_unknown_recurrent_weights_are_refused():
    with pytest.raises(ValueError, match="kind must be one of orthogonal, identity, gaussian, got 'zeros'"):
        set_recurrent_weights(RNNModel(4, 5, 1, 3), "zeros")


@pytest.mark.parametrize("gain", [0, -1.0, math.nan, math.inf, "1", None])
def test_bad_gain_is_refused(gain):
    with pytest.raises(ValueError, match="gain must be a finite number above 0, got"):
        set_recurrent_weights(RNNModel(4, 5, 1, 3), "gaussian", gain=gain)


@pytest.mark.parametrize("kind", IN_ONE_DIRECTION)
def test_input_weights_have_the_variance_of_glorot_and_bengio(kind):
    torch.manual_seed(0)
    model = kind(30, 100, 2, 3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert set_input_weights(model) is model
    layers = recurrent_layers(model)
    for layer, n_inputs in enumerate((30, 100)):
        for block in getattr(layers, f"weight_ih_l{layer}").split(100):
            assert block.abs().max().item() <= (6 / (n_inputs + 100)) ** 0.5
            assert block.var().item() == pytest.approx(2 / (n_inputs + 100), rel=0.1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("weight_ih" in name), name


BAD_SEQUENCES = {
    "an image without a batch": ((28, 28), "got (28, 28); of a single one pass x[None]"),
    "other features": ((5, 28, 27), "got (5, 28, 27)"),
    "the time last": ((5, 28, 7), "got (5, 28, 7)"),
    "no step": ((5, 0, 28), "got (5, 0, 28)"),
    "flat": ((5, 784), "got (5, 784)"),
    "with a channel": ((5, 1, 28, 28), "got (5, 1, 28, 28)"),
    "one row": ((28,), "got (28,)"),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", BAD_SEQUENCES)
def test_sequences_of_another_shape_are_refused(kind, name):
    shape, got = BAD_SEQUENCES[name]
    with pytest.raises(ValueError, match="sequences must have the shape") as caught:
        kind(28, 5, 1, 10)(torch.zeros(shape))
    expected = f"sequences must have the shape (batch, time, 28), with a time step at least, {got}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("kind", MODELS)
def test_sequences_of_another_precision_and_arrays_are_refused(kind):
    model, x = kind(28, 5, 1, 10), torch.zeros(2, 3, 28)
    for other in (x.double(), x.byte()):
        with pytest.raises(
            ValueError, match=r"sequences must be torch\.float32, as the weights are, got torch\."
        ):
            model(other)
    with pytest.raises(TypeError, match="sequences must be a tensor, got a ndarray"):
        model(x.numpy())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.bfloat16()).shape == (2, 10)


@pytest.mark.parametrize("model", [nn.LSTM(2, 3), nn.Linear(2, 3), BidirectionalLSTMModel(2, 3, 1, 2), None])
def test_initial_weights_are_set_of_models_in_one_direction_only(model):
    for call in (set_input_weights, lambda model: set_recurrent_weights(model, "orthogonal")):
        with pytest.raises(TypeError, match="model must be an RNNModel, an LSTMModel or a GRUModel, got"):
            call(model)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="value must be a finite number, got '1'"):
        set_forget_bias(LSTMModel(2, 3, 1, 2), "1")
    with pytest.raises(ValueError, match="kind must be one of orthogonal, identity, gaussian, got"):
        set_recurrent_weights(RNNModel(4, 5, 1, 3), ["identity"])
