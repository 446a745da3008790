"""Models of a text, one character after another: n-grams with Kneser-Ney smoothing, and recurrent networks.

A text is a sequence of indices into an alphabet, as `labutils.data.TextDataset.encode` gives it. What a model is
worth is measured in bits per character: the mean of -log2 of the probability that it gave to the character that
came. Two to the power of that is its perplexity.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from labutils.rules import check_counts, check_numbers, check_value

CELLS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
_BATCH_SIZE, _N_STEPS = 32, 500  # streams and steps at a time where no gradient is taken


class NGram:
    """Counts of the characters that follow each context, smoothed as Kneser and Ney do (interpolated).

    Parameters
    ----------
    order : int
        Characters of the longest n-grams that are counted: one to predict, and ``order - 1`` before it.
    n_characters : int
        Size of the alphabet; with `order` characters it must give fewer than 2 ** 63 different n-grams.
    discount : float
        What each count is lowered by, from 0 to 1; the share that this frees goes to the shorter context.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Kneser and Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995; in the interpolated form of
    Chen and Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech and
    Language 13:359, 1999.
    """

    def __init__(self, order, n_characters, discount=0.75):
        check_counts(order=order, n_characters=n_characters)
        check_numbers(discount=discount, at_least=0)
        if discount > 1:
            raise ValueError(f"discount must be from 0 to 1, got {discount!r}")
        if n_characters**order >= 2**63:
            raise ValueError(f"order must be so small that n_characters ** order < 2 ** 63, got {order!r}")
        self.order, self.n_characters, self.discount = order, n_characters, discount

    def fit(self, indices):
        """Count a text.

        Parameters
        ----------
        indices : array-like of int, shape (n,)
            At least `order` of them.

        Returns
        -------
        NGram
            Itself.
        """
        indices = self._checked(indices)
        grams, counts = np.unique(self._codes(indices, self.order), return_counts=True)
        self.tables_ = []
        for n in range(self.order, 0, -1):
            contexts, place = np.unique(grams // self.n_characters, return_inverse=True)
            totals, kinds = np.bincount(place, counts), np.bincount(place)
            self.tables_.insert(0, (grams, counts, contexts, totals, kinds))
            # a shorter n-gram counts once for each character that was seen before it
            grams, counts = np.unique(grams % self.n_characters ** (n - 1), return_counts=True)
        return self

    def probabilities(self, indices):
        """Probability that the model gives to each character of a text but the first ``order - 1``.

        Parameters
        ----------
        indices : array-like of int, shape (n,)

        Returns
        -------
        numpy.ndarray, shape (n - order + 1,)
        """
        indices = self._checked(indices)
        p = np.full(len(indices) - self.order + 1, 1 / self.n_characters)
        for n, (grams, counts, contexts, totals, kinds) in enumerate(self.tables_, start=1):
            codes = self._codes(indices[self.order - n :], n)
            context = codes // self.n_characters
            total = _look_up(context, contexts, totals)
            left = np.maximum(_look_up(codes, grams, counts) - self.discount, 0)
            freed = self.discount * _look_up(context, contexts, kinds)
            p = np.where(total > 0, (left + freed * p) / np.maximum(total, 1), p)
        return p

    def next_probabilities(self, context):
        """Probability of each character of the alphabet after a context.

        Parameters
        ----------
        context : array-like of int, shape (m,)
            Its last ``order - 1`` characters count.

        Returns
        -------
        numpy.ndarray, shape (n_characters,)
        """
        last = np.asarray(context)[len(context) - self.order + 1 :]
        candidates = ([*last, character] for character in range(self.n_characters))
        return np.concatenate([self.probabilities(candidate) for candidate in candidates])

    def bits_per_character(self, indices):
        """Mean of -log2 of `probabilities`, over a text (float)."""
        return float(-np.log2(self.probabilities(indices)).mean())

    def _codes(self, indices, n):
        """Each n-gram of a text as one number, its characters being the digits."""
        places = self.n_characters ** np.arange(n - 1, -1, -1, dtype=np.int64)
        return np.lib.stride_tricks.sliding_window_view(indices, n) @ places

    def _checked(self, indices):
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or len(indices) < self.order:
            raise ValueError(
                f"indices must be a sequence of at least {self.order} whole numbers, got shape {indices.shape} of "
                f"{indices.dtype}"
            )
        if indices.min() < 0 or indices.max() >= self.n_characters:
            raise ValueError(f"indices must be from 0 to {self.n_characters - 1}")
        return indices.astype(np.int64)


def _look_up(wanted, keys, values):
    """The value of each wanted key, among sorted keys; 0 where it is not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


class CharModel(nn.Module):
    """Recurrent network that reads characters and scores, after each, what the next one may be.

    Parameters
    ----------
    n_characters : int
        Size of the alphabet.
    hidden_dim : int
        Units of the one recurrent layer.
    cell : {"RNN", "LSTM", "GRU"}
    embedding_dim : int
        Numbers that stand for a character; they are learned.

    Raises
    ------
    ValueError
        If a dimension is not a positive integer, or the cell is none of the three.

    References
    ----------
    Mikolov, Karafiat, Burget, Cernocky and Khudanpur, "Recurrent neural network based language model",
    Interspeech 2010.
    """

    def __init__(self, n_characters, hidden_dim, cell="RNN", embedding_dim=64):
        super().__init__()
        check_counts(n_characters=n_characters, hidden_dim=hidden_dim, embedding_dim=embedding_dim)
        check_value("cell", cell, tuple(CELLS))
        self.embedding = nn.Embedding(n_characters, embedding_dim)
        self.rnn = CELLS[cell](embedding_dim, hidden_dim, batch_first=True)
        self.fc = nn.Linear(hidden_dim, n_characters)

    def forward(self, characters, state=None):
        """Scores of the next character after each one, and the state after the last.

        Parameters
        ----------
        characters : torch.Tensor of int64, shape (batch, time)
        state : optional
            What an earlier call gave as its second value; zeros if not given.

        Returns
        -------
        torch.Tensor, shape (batch, time, n_characters)
            Scores (logits).
        torch.Tensor, shape (1, batch, hidden_dim), or a pair of them with an LSTM
            The state.
        """
        states, state = self.rnn(self.embedding(characters), state)
        return self.fc(states), state


def detach(state):
    """A state with the same numbers, and no memory of how they were computed; None stays None."""
    if state is None:
        return None
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def streams(indices, batch_size):
    """Cut a text into pieces of equal length that are read side by side; a rest is left out.

    Parameters
    ----------
    indices : array-like of int, shape (n,)
    batch_size : int
        Number of pieces; each must get two characters.

    Returns
    -------
    torch.Tensor of int64, shape (batch_size, n // batch_size)

    Raises
    ------
    ValueError
        If the text is too short.
    """
    check_counts(batch_size=batch_size)
    indices = torch.as_tensor(indices)
    length = len(indices) // batch_size
    if length < 2:
        raise ValueError(
            f"{batch_size} streams need a text of {2 * batch_size} characters, got {len(indices)}"
        )
    return indices[: batch_size * length].view(batch_size, length)


@dataclass
class TextHistory:
    """What happened during `fit`: an entry an update.

    Attributes
    ----------
    losses : list of float
        Mean cross-entropy of the update's characters, in nats; bits per character are this over ln 2.
    gradient_norms : list of float
        Before clipping.
    """

    losses: list = field(default_factory=list)
    gradient_norms: list = field(default_factory=list)


def fit(model, optimizer, text, *, n_steps, n_iters, clip_norm=math.inf, schedule=None):
    """Train by backpropagation through time, truncated to chunks between which the state is carried.

    Parameters
    ----------
    model : CharModel
        Trained in place.
    optimizer : torch.optim.Optimizer
    text : torch.Tensor of int64, shape (batch, time)
        As `streams` gives it. At its end the reading begins again at the start, with a state of zeros.
    n_steps : int
        Characters of a chunk, which is how far back a gradient goes; at most ``time - 1``.
    n_iters : int
        Updates; fewer if the loss is no longer finite.
    clip_norm : float
        Longest gradient that is used as it is.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        Stepped after each update.

    Returns
    -------
    TextHistory

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories", Neural Computation 2:490, 1990.
    """
    check_counts(n_steps=n_steps, n_iters=n_iters)
    if n_steps >= text.shape[1]:
        raise ValueError(f"n_steps must be below the length of the streams, {text.shape[1]}, got {n_steps!r}")
    torch.set_num_threads(1)
    history, start, state = TextHistory(), 0, None
    for _ in range(n_iters):
        inputs, targets = text[:, start : start + n_steps], text[:, start + 1 : start + n_steps + 1]
        scores, state = model(inputs, detach(state))
        loss = functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        history.losses.append(loss.item())
        history.gradient_norms.append(norm.item())
        if not math.isfinite(history.losses[-1]):
            break
        start += n_steps
        if start + n_steps >= text.shape[1]:
            start, state = 0, None
    return history


def graph_bytes(model, characters):
    """Memory that autograd keeps on the way forward through a chunk, for the way back.

    Parameters
    ----------
    model : CharModel
    characters : torch.Tensor of int64, shape (batch, time)

    Returns
    -------
    int
        Bytes, the parameters not counted.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = model(
            characters.clone()
        )  # a storage of its own; alive until all is counted, so that no place is used twice
    size = sum(size for place, size in kept.items() if place not in own)
    del graph
    return size


@torch.inference_mode()
def probabilities(model, indices, *, batch_size=_BATCH_SIZE):
    """Probability that a network gives to each character of a text that is read in `streams`.

    Each stream begins with a state of zeros, and its first character is not predicted.

    Parameters
    ----------
    model : CharModel
    indices : array-like of int, shape (n,)
    batch_size : int

    Returns
    -------
    numpy.ndarray, shape (batch_size, n // batch_size - 1)
    """
    text, state, parts = streams(indices, batch_size), None, []
    for start in range(0, text.shape[1] - 1, _N_STEPS):
        targets = text[:, start + 1 : start + 1 + _N_STEPS]
        scores, state = model(text[:, start : start + targets.shape[1]], state)
        parts.append(scores.double().softmax(dim=2).gather(2, targets[:, :, None])[:, :, 0])
    return torch.cat(parts, dim=1).numpy()


def bits_per_character(model, indices, *, batch_size=_BATCH_SIZE):
    """Mean of -log2 of the `probabilities` that a network gives to the characters of a text (float)."""
    return float(-np.log2(probabilities(model, indices, batch_size=batch_size)).mean())


def mixed_bits_per_character(model, ngram, indices, *, weight=0.5, batch_size=_BATCH_SIZE):
    """Bits per character of the weighted mean of two predictions, a network's and an n-gram model's.

    Parameters
    ----------
    model : CharModel
    ngram : NGram
        After its `fit`.
    indices : array-like of int, shape (n,)
    weight : float
        That of the network, from 0 to 1; the n-grams have the rest.
    batch_size : int

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the weight is out of range.
    """
    check_numbers(weight=weight, at_least=0)
    if weight > 1:
        raise ValueError(f"weight must be from 0 to 1, got {weight!r}")
    by_counts = np.full(
        len(indices), np.nan
    )  # the first few are not predicted; they stand in the first stream
    by_counts[ngram.order - 1 :] = ngram.probabilities(indices)
    by_counts = streams(by_counts, batch_size)[:, 1:].numpy()
    by_network = probabilities(model, indices, batch_size=batch_size)
    mixed = weight * by_network + (1 - weight) * by_counts
    return float(-np.log2(mixed[~np.isnan(mixed)]).mean())


@torch.inference_mode()
def sample(model, prompt, length, *, temperature=1.0, seed=0):
    """Let a network go on writing, one drawn character after the other.

    Parameters
    ----------
    model : CharModel
    prompt : array-like of int, shape (n,)
        What it reads first; at least one character.
    length : int
        Characters to draw.
    temperature : float
        The scores are divided by it: below 1 likely characters become likelier, above 1 all become more alike.
    seed : int

    Returns
    -------
    list of int
        The characters that were drawn.
    """
    check_counts(length=length)
    check_numbers(temperature=temperature, above=0)
    generator = torch.Generator().manual_seed(seed)
    scores, state = model(torch.as_tensor(prompt)[None])
    drawn = []
    for _ in range(length):
        chances = functional.softmax(scores[0, -1] / temperature, dim=0)
        drawn.append(torch.multinomial(chances, 1, generator=generator).item())
        scores, state = model(torch.tensor([drawn[-1:]]), state)
    return drawn
