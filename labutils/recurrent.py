"""The recurrent classifiers of the lab: a sequence goes in, row by row, and class scores come out.

They read a batch of shape (batch, time, features) from the first step to the last, start from a state of
zeros, and hand the last hidden state of the top layer to a linear readout. There is no ``detach``: the state
is made anew for every batch, so it has no history to cut off.
"""

import torch
from torch import nn

from labutils.rules import check_counts, check_numbers


class _Classifier(nn.Module):
    """What the models share: recurrent layers, and a linear readout of the state that they end in."""

    def forward(self, x):
        """Class scores (logits), shape (batch, output_dim), of sequences of shape (batch, time, input_dim).

        Raises
        ------
        ValueError
            If the sequences have another shape, no time step, or another precision than the weights.
        TypeError
            If they are no tensor.
        """
        layers = _layers(self)
        _check_sequences(x, layers)
        states, _ = layers(x)
        return self.fc(self._last(states))

    def _last(self, states):
        return states[:, -1, :]


class RNNModel(_Classifier):
    """Simple (Elman) recurrent network with a linear readout.

    Parameters
    ----------
    input_dim : int
        Features per time step; 28 for an image read row by row.
    hidden_dim : int
        Units per layer.
    layer_dim : int
        Number of stacked layers.
    output_dim : int
        Number of classes.
    nonlinearity : {"relu", "tanh"}
        Activation of the hidden units.

    Raises
    ------
    ValueError
        If a dimension is not a positive integer, or the nonlinearity is not one of the two.

    References
    ----------
    Elman, "Finding structure in time", Cognitive Science 14:179, 1990.
    """

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim, nonlinearity="relu"):
        super().__init__()
        check_counts(input_dim=input_dim, hidden_dim=hidden_dim, layer_dim=layer_dim, output_dim=output_dim)
        if nonlinearity not in ("relu", "tanh"):
            raise ValueError(f"nonlinearity must be 'relu' or 'tanh', got {nonlinearity!r}")
        self.rnn = nn.RNN(input_dim, hidden_dim, layer_dim, batch_first=True, nonlinearity=nonlinearity)
        self.fc = nn.Linear(hidden_dim, output_dim)


class LSTMModel(_Classifier):
    """Long short-term memory network with a linear readout.

    Parameters
    ----------
    input_dim : int
        Features per time step; 28 for an image read row by row.
    hidden_dim : int
        Units per layer.
    layer_dim : int
        Number of stacked layers.
    output_dim : int
        Number of classes.

    Raises
    ------
    ValueError
        If a dimension is not a positive integer.

    References
    ----------
    Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9:1735, 1997.
    Gers, Schmidhuber and Cummins, "Learning to forget", Neural Computation 12:2451, 2000 (the forget gate).
    """

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim):
        super().__init__()
        check_counts(input_dim=input_dim, hidden_dim=hidden_dim, layer_dim=layer_dim, output_dim=output_dim)
        self.lstm = nn.LSTM(input_dim, hidden_dim, layer_dim, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)


class GRUModel(_Classifier):
    """Gated recurrent units with a linear readout.

    PyTorch's variant: the reset gate multiplies what comes of the product with the recurrent weights, and its
    offset; Cho et al. apply it to the state before the product.

    Parameters
    ----------
    input_dim : int
        Features per time step; 28 for an image read row by row.
    hidden_dim : int
        Units per layer.
    layer_dim : int
        Number of stacked layers.
    output_dim : int
        Number of classes.

    Raises
    ------
    ValueError
        If a dimension is not a positive integer.

    References
    ----------
    Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    EMNLP 2014, equations 5 to 8.
    """

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim):
        super().__init__()
        check_counts(input_dim=input_dim, hidden_dim=hidden_dim, layer_dim=layer_dim, output_dim=output_dim)
        self.gru = nn.GRU(input_dim, hidden_dim, layer_dim, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)


class BidirectionalLSTMModel(_Classifier):
    """Two LSTMs in each layer, of which one reads forwards and one backwards, with a linear readout.

    The readout sees the state in which each direction of the top layer ends: that of the last step forwards, and
    that of the first step backwards, when each has read the whole sequence.

    Parameters
    ----------
    input_dim : int
        Features per time step; 28 for an image read row by row.
    hidden_dim : int
        Units per layer and direction.
    layer_dim : int
        Number of stacked layers.
    output_dim : int
        Number of classes.

    Raises
    ------
    ValueError
        If a dimension is not a positive integer.

    References
    ----------
    Schuster and Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on Signal Processing 45:2673,
    1997; Graves and Schmidhuber, "Framewise phoneme classification with bidirectional LSTM and other neural network
    architectures", Neural Networks 18:602, 2005.
    """

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim):
        super().__init__()
        check_counts(input_dim=input_dim, hidden_dim=hidden_dim, layer_dim=layer_dim, output_dim=output_dim)
        self.lstm = nn.LSTM(input_dim, hidden_dim, layer_dim, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden_dim, output_dim)

    def _last(self, states):
        forwards, backwards = states.chunk(2, dim=2)
        return torch.cat([forwards[:, -1, :], backwards[:, 0, :]], dim=1)


def _check_sequences(x, layers):
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"sequences must be a tensor, got a {type(x).__name__}; torch.as_tensor makes one")
    if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != layers.input_size:
        hint = "; of a single one pass x[None]" if x.ndim == 2 and x.shape[1] == layers.input_size else ""
        raise ValueError(
            f"sequences must have the shape (batch, time, {layers.input_size}), with a time step at least, "
            f"got {tuple(x.shape)}{hint}"
        )
    precision = layers.weight_ih_l0.dtype
    if x.dtype != precision and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"sequences must be {precision}, as the weights are, got {x.dtype}; x.to({precision}) is"
        )


def _layers(model):
    """The recurrent layers of one of the models: the module that comes before the readout."""
    return next(model.children())


def _layers_in_one_direction(model):
    if not isinstance(model, RNNModel | LSTMModel | GRUModel):
        allowed = "an RNNModel, an LSTMModel or a GRUModel"
        raise TypeError(f"model must be {allowed}, got {type(model).__name__}")
    return _layers(model)


@torch.no_grad()
def set_forget_bias(model, value):
    """Set the forget gates of every layer so that they start open (or shut), in place.

    PyTorch packs the four blocks of a layer in the order input gate, forget gate, cell candidate, output
    gate, and adds two bias vectors. This sets the forget quarter of one to `value` and of the other to zero,
    so that before any input the gate is sigmoid(value).

    Parameters
    ----------
    model : LSTMModel
    value : float
        Bias of the forget gates; 1 is the usual choice.

    Returns
    -------
    LSTMModel
        The same model, for chaining.

    Raises
    ------
    TypeError
        If the model has no LSTM.
    ValueError
        If the value is not a finite number.

    References
    ----------
    Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever, "An empirical exploration of
    recurrent network architectures", ICML 2015, section 2.2.
    """
    if not isinstance(model, LSTMModel):
        raise TypeError(f"only an LSTMModel has forget gates, got {type(model).__name__}")
    check_numbers(value=value)
    forget = slice(model.lstm.hidden_size, 2 * model.lstm.hidden_size)
    for layer in range(model.lstm.num_layers):
        getattr(model.lstm, f"bias_ih_l{layer}")[forget] = value
        getattr(model.lstm, f"bias_hh_l{layer}")[forget] = 0.0
    return model


@torch.no_grad()
def set_input_weights(model):
    """Draw the input-to-hidden weights of every layer anew as Glorot and Bengio advise ("Xavier"), in place.

    They are uniform, with the variance 2 / (inputs + units); of an LSTM each of the four blocks is drawn on its
    own, of a GRU each of the three. PyTorch's default has the variance 1 / (3 units), whatever the number of inputs.

    Parameters
    ----------
    model : RNNModel, LSTMModel or GRUModel

    Returns
    -------
    RNNModel, LSTMModel or GRUModel
        The same model, for chaining.

    Raises
    ------
    TypeError
        If the model is none of these.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
    equation 16.
    """
    layers = _layers_in_one_direction(model)
    for layer in range(layers.num_layers):
        for block in getattr(layers, f"weight_ih_l{layer}").split(layers.hidden_size):
            nn.init.xavier_uniform_(block)
    return model


_RECURRENT_WEIGHTS = {
    "orthogonal": nn.init.orthogonal_,
    "identity": nn.init.eye_,
    "gaussian": lambda block: block.normal_(std=len(block) ** -0.5),
}


@torch.no_grad()
def set_recurrent_weights(model, kind, *, gain=1.0):
    """Draw the hidden-to-hidden weights of every layer anew, in place, from torch's global generator.

    Parameters
    ----------
    model : RNNModel, LSTMModel or GRUModel
        Of an LSTM each of the four blocks is drawn on its own, of a GRU each of the three.
    kind : {"orthogonal", "identity", "gaussian"}
        A random orthogonal matrix; the identity, with the layer's biases set to zero (Le, Jaitly and Hinton
        2015: with ReLU units, the "IRNN"); or independent entries of variance 1 / hidden_dim.
    gain : float
        Factor of the matrix, above 0.

    Returns
    -------
    RNNModel, LSTMModel or GRUModel
        The same model, for chaining.

    Raises
    ------
    ValueError
        If the kind is none of the three, or the gain is not a finite number above 0.
    TypeError
        If the model is none of these.

    References
    ----------
    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks", ICLR 2014; Le, Jaitly and Hinton, "A simple way to initialize recurrent networks of rectified
    linear units", arXiv:1504.00941.
    """
    if not isinstance(kind, str) or kind not in _RECURRENT_WEIGHTS:
        raise ValueError(f"kind must be one of {', '.join(_RECURRENT_WEIGHTS)}, got {kind!r}")
    check_numbers(above=0, gain=gain)
    layers = _layers_in_one_direction(model)
    for layer in range(layers.num_layers):
        for block in getattr(layers, f"weight_hh_l{layer}").split(layers.hidden_size):
            _RECURRENT_WEIGHTS[kind](block)
            block.mul_(gain)
        if kind == "identity":
            getattr(layers, f"bias_ih_l{layer}").zero_()
            getattr(layers, f"bias_hh_l{layer}").zero_()
    return model
