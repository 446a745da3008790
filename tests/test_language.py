"""Models of a text: n-grams against a second implementation, the network and its loop against torch."""

import collections
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from labutils import data, experiments, language

ALPHABET = 5
TEXTS = {  # over an alphabet of five
    "random": np.random.default_rng(0).integers(0, ALPHABET, 400),
    "one character": np.full(30, 3),
    "some never occur": np.random.default_rng(1).integers(0, 2, 200),
    "as short as can be": np.array([0, 1, 2]),
    "skewed": np.random.default_rng(2).geometric(0.6, 500).clip(max=ALPHABET) - 1,
}


def kneser_ney(text, context, order, discount):
    """The same by counting with dicts: probability of each character after a context of order - 1."""
    grams = collections.Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
    levels = {order: grams}
    for n in range(order - 1, 0, -1):
        levels[n] = collections.Counter(gram[1:] for gram in levels[n + 1])
    p = np.full(ALPHABET, 1 / ALPHABET)
    for n in range(1, order + 1):
        end = tuple(context[len(context) - n + 1 :])
        counts = np.array([levels[n][(*end, character)] for character in range(ALPHABET)])
        if counts.sum():
            freed = discount * np.count_nonzero(counts)
            p = (np.maximum(counts - discount, 0) + freed * p) / counts.sum()
    return p


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("discount", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("name", TEXTS)
def test_ngram_equals_counting_with_dicts_and_sums_to_one(name, discount, order):
    text = TEXTS[name]
    model = language.NGram(order, ALPHABET, discount).fit(text)
    for context in ([0, 1, 2, 4], [4, 4, 4, 4], [3, 3, 3, 3], [0, 0, 1, 1]):
        chances = model.next_probabilities(context)
        np.testing.assert_allclose(chances, kneser_ney(text, context, order, discount), rtol=1e-12)
        assert chances.sum() == pytest.approx(1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_probabilities_are_those_of_each_next_character(order):
    text, other = TEXTS["random"], TEXTS["skewed"][:50]
    model = language.NGram(order, ALPHABET).fit(text)
    one_by_one = [model.next_probabilities(other[:t])[other[t]] for t in range(order - 1, len(other))]
    np.testing.assert_allclose(model.probabilities(other), one_by_one)
    assert model.bits_per_character(other) == pytest.approx(-np.log2(one_by_one).mean())


def test_ngram_of_a_closed_form():
    """A bigram without a discount is the share of pairs; with one character, the discount changes nothing."""
    text = np.array([0, 1, 0, 1, 0, 2, 0, 1, 0])
    model = language.NGram(2, 3, discount=0).fit(text)
    np.testing.assert_allclose(model.next_probabilities([0]), [0, 3 / 4, 1 / 4])
    np.testing.assert_allclose(model.next_probabilities([2]), [1, 0, 0])
    freed = (
        0.5 * 2 / 4 * (1 / 3 * 0.5 * 3 / 4 + np.array([1.5, 0.5, 0.5]) / 4)
    )  # 2 characters come before the 0
    expected = np.array([0, 2.5, 0.5]) / 4 + freed
    np.testing.assert_allclose(language.NGram(2, 3, discount=0.5).fit(text).next_probabilities([0]), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: language.NGram(0, 5), "order must be a positive integer, got 0"),
        (lambda: language.NGram(20, 79), "n_characters \\*\\* order < 2 \\*\\* 63, got 20"),
        (lambda: language.NGram(2, 5, discount=1.5), "discount must be from 0 to 1, got 1.5"),
        (lambda: language.NGram(2, 5, discount=-1), "discount must be a finite number of at least 0"),
        (lambda: language.NGram(2, 5).fit([1]), "sequence of at least 2 whole numbers"),
        (lambda: language.NGram(2, 5).fit([0.5, 1.0, 2.0]), "got shape \\(3,\\) of float64"),
        (lambda: language.NGram(2, 5).fit([1, 2, 5]), "indices must be from 0 to 4"),
        (lambda: language.CharModel(5, 0), "hidden_dim must be a positive integer"),
        (lambda: language.CharModel(5, 3, "GRUE"), "cell must be one of RNN, LSTM, GRU, got 'GRUE'"),
        (lambda: language.streams(range(7), 4), "4 streams need a text of 8 characters, got 7"),
        (lambda: fitted("RNN", n_steps=40), "n_steps must be below the length of the streams, 40, got 40"),
        (lambda: fitted("RNN", n_iters=0), "n_iters must be a positive integer"),
        (lambda: mixture(weight=1.5), "weight must be from 0 to 1, got 1.5"),
        (lambda: mixture(weight=-0.1), "weight must be a finite number of at least 0"),
        (lambda: language.sample(small("RNN"), [0], 0), "length must be a positive integer"),
        (
            lambda: language.sample(small("RNN"), [0], 3, temperature=0),
            "temperature must be a finite number above 0",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def mixture(weight):
    ngram = language.NGram(2, ALPHABET).fit(TEXTS["random"])
    return language.mixed_bits_per_character(small("RNN"), ngram, TEXTS["random"], weight=weight)


def small(cell):
    torch.manual_seed(0)
    return language.CharModel(ALPHABET, 6, cell, embedding_dim=4)


TEXT = language.streams(np.tile(TEXTS["random"], 2)[:200], 5)  # five streams of forty


def fitted(cell, *, learning_rate=0.1, **settings):
    model = small(cell)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    return model, language.fit(model, optimizer, TEXT, **{"n_steps": 8, "n_iters": 10} | settings)


def test_streams_are_the_text_in_order():
    assert language.streams(range(11), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("cell", language.CELLS)
def test_state_carried_over_is_as_good_as_reading_in_one_go(cell):
    model = small(cell).double()
    whole, last = model(TEXT)
    first, state = model(TEXT[:, :13])
    second, state = model(TEXT[:, 13:], language.detach(state))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    for part, whole_part in zip(tuple(state), tuple(last), strict=True):
        torch.testing.assert_close(part, whole_part)


@pytest.mark.parametrize("cell", language.CELLS)
def test_detach_keeps_the_numbers_and_cuts_the_graph(cell):
    _, state = small(cell)(TEXT)
    before = state if isinstance(state, tuple) else (state,)
    after = language.detach(state)
    after = after if isinstance(after, tuple) else (after,)
    assert all(map(torch.equal, before, after))
    assert all(part.requires_grad for part in before)
    assert not any(part.requires_grad for part in after)
    assert language.detach(None) is None


@pytest.mark.parametrize("cell", language.CELLS)
def test_fit_is_the_loop_written_out(cell):
    """State carried and detached, a gradient clipped as a whole, a new start where the text ends."""
    model, history = fitted(cell, n_iters=9, n_steps=8, clip_norm=0.05)
    same = small(cell)
    state, losses, norms = None, [], []
    for start in (0, 8, 16, 24, 0, 8, 16, 24, 0):  # at 32 the last chunk would lack its last target
        if start == 0 or state is None:
            state = None
        elif cell == "LSTM":
            state = (state[0].detach(), state[1].detach())
        else:
            state = state.detach()
        scores, state = same(TEXT[:, start : start + 8], state)
        loss = functional.cross_entropy(
            scores.reshape(-1, ALPHABET), TEXT[:, start + 1 : start + 9].reshape(-1)
        )
        gradients = torch.autograd.grad(loss, list(same.parameters()))
        norms.append(math.sqrt(sum(g.square().sum().item() for g in gradients)))
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, gradient in zip(same.parameters(), gradients, strict=True):
                parameter -= 0.1 * min(1, 0.05 / norms[-1]) * gradient
    assert history.losses == pytest.approx(losses, rel=1e-5)
    assert history.gradient_norms == pytest.approx(norms, rel=1e-4)
    for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_fit_clips_nothing_unless_asked_and_steps_the_schedule():
    _, plain = fitted("RNN")
    _, clipped = fitted("RNN", clip_norm=1e9)
    assert plain.losses == clipped.losses
    model = small("RNN")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    language.fit(model, optimizer, TEXT, n_steps=8, n_iters=3, schedule=schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_fit_ends_where_the_loss_is_no_longer_finite():
    model = small("RNN")
    with torch.no_grad():
        model.fc.bias[0] = math.nan
    history = language.fit(model, torch.optim.SGD(model.parameters(), lr=0.1), TEXT, n_steps=8, n_iters=10)
    assert len(history.losses) == 1
    assert math.isnan(history.losses[0])


def test_fit_leaves_the_text_alone():
    before = TEXT.clone()
    fitted("GRU")
    assert torch.equal(TEXT, before)


@pytest.mark.parametrize("cell", language.CELLS)
def test_bits_per_character_of_a_long_text(cell):
    """Longer than what is read at a time, so that the state must be carried."""
    model = small(cell).double()
    text = np.random.default_rng(3).integers(0, ALPHABET, 2600)
    with torch.no_grad():
        scores, _ = model(torch.tensor(text[:1300])[None])
        again, _ = model(torch.tensor(text[1300:])[None])
    chances = torch.cat([scores, again]).softmax(dim=2)
    nexts = torch.tensor(text).view(2, 1300)
    given = [chances[i, t, nexts[i, t + 1]].log2().item() for i in range(2) for t in range(1299)]
    assert language.bits_per_character(model, text, batch_size=2) == pytest.approx(-np.mean(given))


def test_a_model_that_knows_nothing_has_the_bits_of_a_fair_die():
    model = small("RNN")
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    assert language.bits_per_character(model, TEXTS["random"]) == pytest.approx(math.log2(ALPHABET), rel=1e-6)


def test_sample_follows_the_chances_and_the_temperature():
    model = small("RNN")
    nn.init.zeros_(model.fc.weight)
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    with torch.no_grad():
        model.fc.bias.copy_(scores)
    for temperature in (0.5, 1.0, 3.0):
        drawn = language.sample(model, [0], 4000, temperature=temperature, seed=1)
        shares = np.bincount(drawn, minlength=ALPHABET) / 4000
        np.testing.assert_allclose(shares, (scores / temperature).softmax(dim=0), atol=0.03)


@pytest.mark.parametrize("cell", language.CELLS)
def test_sample_goes_on_from_the_whole_prompt(cell):
    """At a temperature near zero each character is the likeliest after all before it."""
    model = small(cell)
    text = [0, 3, 1]
    drawn = language.sample(model, text, 12, temperature=1e-6)
    for character in drawn:
        with torch.no_grad():
            scores, _ = model(torch.tensor([text]))
        assert character == scores[0, -1].argmax()
        text.append(character)


def test_sample_repeats_with_its_seed():
    model = small("LSTM")
    assert language.sample(model, [1], 50, seed=3) == language.sample(model, [1], 50, seed=3)
    assert language.sample(model, [1], 50, seed=3) != language.sample(model, [1], 50, seed=4)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_a_mixture_is_the_weighted_mean_of_both_probabilities(weight):
    """A network that knows nothing gives the same to all, so the mixture can be written down."""
    model, text = small("RNN"), TEXTS["random"]
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    ngram = language.NGram(3, ALPHABET).fit(TEXTS["skewed"])
    p = dict(enumerate(ngram.probabilities(text), start=2))  # by place in the text
    bits = [-math.log2(weight / ALPHABET + (1 - weight) * p[i]) for i in p if i % 100]  # four streams
    mixed = language.mixed_bits_per_character(model, ngram, text, weight=weight, batch_size=4)
    assert mixed == pytest.approx(np.mean(bits))


def test_runs_change_one_thing_at_a_time():
    runs = experiments.next_character(seeds=(0,))
    assert len(set(runs)) == len(runs)
    lesson = experiments.TextRun("RNN", 0, clip_norm=1.0)
    assert lesson in runs
    assert {run.n_steps for run in runs if dataclasses.replace(run, n_steps=64) == lesson} == {1, 4, 16, 64}
    assert {run.model for run in runs if dataclasses.replace(run, model="RNN") == lesson} == {
        "RNN",
        "LSTM",
        "GRU",
    }
    sgd = [run for run in runs if run.optimizer == "sgd"]
    assert [run.clip_norm for run in sgd] == [0.25, 1.0, None]
    assert len({dataclasses.replace(run, clip_norm=None) for run in sgd}) == 1


@pytest.mark.parametrize(
    "settings", [{}, {"model": "LSTM", "one_cycle": True}, {"optimizer": "sgd", "clip_norm": 0.01}]
)
def test_a_run_of_the_excerpt(settings):
    settings = {"model": "RNN", "n_steps": 16, "hidden_dim": 8, "n_iters": 5} | settings
    run = experiments.TextRun(seed=1, dataset="moby-dick-excerpt", **settings)
    measured = run.measure("cpu")
    assert measured["updates"] == 5
    assert 4 < measured["bits"] < 7
    assert measured["mixed_bits"] < measured["bits"]
    assert len(measured["sample"]) == 500
    assert measured["clipped_share"] == (1.0 if run.clip_norm else None)
    again = run.measure("cpu")
    assert {**again, "train_cpu_seconds": 0} == {**measured, "train_cpu_seconds": 0}
    book = data.moby_dick("moby-dick-excerpt")
    model, _ = experiments.text.train(run, device="cpu")
    bits = language.bits_per_character(model, book.encode(book.test))
    assert bits == measured["bits"]


@pytest.mark.parametrize("cell", language.CELLS)
def test_memory_of_the_graph_grows_in_proportion_and_leaves_out_the_parameters(cell):
    model = language.CharModel(ALPHABET, 64, cell)
    sizes = [language.graph_bytes(model, torch.zeros(3, time, dtype=torch.int64)) for time in (10, 20, 30)]
    assert sizes[1] - sizes[0] == pytest.approx(sizes[2] - sizes[1], rel=0.2)
    assert sizes[1] - sizes[0] >= 4 * 3 * 10 * 64  # each state at least
    weights = sum(p.nbytes for p in model.rnn.parameters())
    assert sizes[0] - (sizes[1] - sizes[0]) < weights / 2


def test_the_committed_table_holds_all_runs_of_the_lessons_size_and_none_that_is_not_declared():
    """The larger network is trained where there is time for it; the lesson says nothing that depends on it."""
    declared = set(experiments.next_character())
    there = set(experiments.runs_of(experiments.read_table("next_character"), experiments.TextRun))
    assert {run for run in declared if run.hidden_dim == 128} <= there <= declared


@pytest.mark.network
def test_a_random_row_of_the_committed_table_can_be_repeated():
    frame = experiments.read_table("next_character")
    one = frame[frame["hidden_dim"] == 128].sample(1)
    (run,) = experiments.runs_of(one, experiments.TextRun)
    n_iters = run.n_iters // 10
    _, history = experiments.text.train(run, n_iters=n_iters)
    assert sum(history.losses) / n_iters == pytest.approx(one["early_loss"].item(), rel=0.02), run
