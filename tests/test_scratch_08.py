"""What notebook 08 writes out, against torch and labutils.language, on inputs harder than the lesson's."""

import itertools
import math

import numpy as np
import pytest
import scratch
import torch
from torch import nn

from labutils import data, language

LESSON = scratch.load("08_next_character")
BOOK = data.moby_dick("moby-dick-excerpt")
V = len(BOOK.characters)
TEXTS = {
    "a chapter": BOOK.chapters[1][:3000],
    "one character": "aaaaaaaaaa",
    "every pair once": "aabbccacba",
    "as short as can be": "whale",
}
TEXT = torch.tensor(BOOK.encode(BOOK.chapters[0][:1000])).view(4, 250)
CELLS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("name", TEXTS)
def test_kneser_ney_sums_to_one_and_equals_the_library(name, order):
    text = TEXTS[name]
    levels = LESSON["kneser_ney"](text, order)
    fast = language.NGram(order, V).fit(BOOK.encode(text))
    for context in ("hale", "aaaa", "abac", "9?9?", text[:4]):
        p = [LESSON["probability"](character, context, levels, V) for character in BOOK.characters]
        assert sum(p) == pytest.approx(1)
        np.testing.assert_allclose(p, fast.next_probabilities(BOOK.encode(context)), rtol=1e-12)


@pytest.mark.parametrize(("batch", "units", "scale"), [(3, 5, 1.0), (1, 1, 1.0), (4, 6, 30.0)])
def test_a_step_equals_torch(batch, units, scale):
    torch.manual_seed(0)
    cell = nn.RNNCell(4, units, dtype=torch.float64)
    x, h = scale * torch.randn(batch, 4).double(), torch.randn(batch, units).double()
    ours = LESSON["rnn_step"](x, h, *cell.parameters())
    torch.testing.assert_close(ours, cell(x, h))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_streams_equal_the_library(batch_size):
    indices = BOOK.encode(BOOK.chapters[0][:101])
    assert torch.equal(LESSON["streams"](indices, batch_size), language.streams(indices, batch_size))


@pytest.mark.parametrize("n_steps", [1, 7, 83, 249])
def test_chunks_go_through_the_text_in_order_and_begin_anew(n_steps):
    """Each character but the first is a target once, up to a rest shorter than a chunk; then the same again."""
    once = (250 - 1) // n_steps
    read = list(itertools.islice(LESSON["chunks"](TEXT, n_steps), 2 * once))
    assert [is_start for is_start, _, _ in read] == ([True] + [False] * (once - 1)) * 2
    for some in (read[:once], read[once:]):
        inputs, targets = (torch.cat(parts, dim=1) for parts in list(zip(*some, strict=True))[1:])
        assert torch.equal(inputs, TEXT[:, : once * n_steps])
        assert torch.equal(targets, TEXT[:, 1 : once * n_steps + 1])


def twins(cell, hidden_dim=6):
    """The lesson's model and the library's, with the same weights."""
    torch.manual_seed(0)
    ours = LESSON["CharModel"](V, hidden_dim, CELLS[cell])
    torch.manual_seed(0)
    theirs = language.CharModel(V, hidden_dim, cell)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape for name, p in theirs.named_parameters()
    }
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    return ours, theirs


@pytest.mark.parametrize("cell", CELLS)
def test_the_model_equals_the_library(cell):
    ours, theirs = twins(cell)
    for state in (None, ours(TEXT)[1]):
        for one, other in zip(ours(TEXT, state), theirs(TEXT, state), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_detach_equals_the_library(cell):
    _, state = twins(cell)[0](TEXT)
    ours, theirs = LESSON["detach"](state), language.detach(state)
    for one, other in zip(tuple(ours), tuple(theirs), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
@pytest.mark.parametrize("cell", CELLS)
def test_the_loop_equals_the_library(cell, clip_norm, capsys):
    """Over the end of the text, where the state begins anew."""
    ours, theirs = twins(cell)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (ours, theirs)]
    losses = LESSON["train_network"](ours, nn.CrossEntropyLoss(), optimizers[0], TEXT, 40, 15, clip_norm)
    history = language.fit(theirs, optimizers[1], TEXT, n_steps=40, n_iters=15, clip_norm=clip_norm)
    assert len(losses) == 15
    assert losses == pytest.approx(np.array(history.losses) / math.log(2))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert capsys.readouterr().out.count("bits per character") == 5  # every 15 // 4 updates


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_writing_equals_the_library(temperature):
    ours, theirs = twins("LSTM")
    LESSON["book"] = BOOK
    torch.manual_seed(5)
    written = LESSON["write"](ours, "The whale", 60, temperature)
    drawn = language.sample(theirs, BOOK.encode("The whale"), 60, temperature=temperature, seed=5)
    assert written == "The whale" + BOOK.decode(drawn)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a “b c” d", "..++++..."),
        ("“a” “b”", "++..++."),
        ("“a\nb” c", "++....."),
        ("”a “", "...+"),
        ("“a “b” c”", "+++++...."),
        ("", ""),
    ],
)
def test_inside_quotes(text, marks):
    assert LESSON["inside_quotes"](text).tolist() == [mark == "+" for mark in marks]


def test_late_in_word():
    late = LESSON["late_in_word"]("Whales, I see-sawed\n’tis")
    marks = ["-" if np.isnan(answer) else str(int(answer)) for answer in late]
    assert "".join(marks) == "000111--0-000-00011--000"


def test_the_unit_that_is_the_feature_scores_one():
    """A network whose first unit is the feature, whose second is its opposite, and whose third says nothing."""
    text = BOOK.chapters[0][:800]
    feature = LESSON["late_in_word"](text)
    right = np.nan_to_num(feature, nan=9.0)
    LESSON["read_states"], kept = (
        lambda model, text: np.stack([right, -right, np.zeros(800)], axis=1),
        LESSON["read_states"],
    )
    try:
        scores = LESSON["score_units"](None, text, LESSON["late_in_word"])
    finally:
        LESSON["read_states"] = kept
    assert scores.tolist() == [1.0, 0.0, 0.5]


def test_states_are_those_after_each_character_of_each_stream():
    LESSON["book"] = BOOK
    model, _ = twins("GRU")
    text = BOOK.chapters[0][:330]
    states = LESSON["read_states"](model, text)
    assert states.shape == (320, 6)
    with torch.no_grad():
        _, last = model(torch.tensor(BOOK.encode(text[:20]))[None])
    np.testing.assert_allclose(states[19], last[0, 0], rtol=1e-4, atol=1e-6)
