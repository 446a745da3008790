"""The declared runs on long sequences: their tasks, their networks, what a row says, and how rates are chosen."""

import dataclasses
import math

import pandas as pd
import pytest
import scratch
import torch
from torch import nn

from labutils import experiments
from labutils.experiments import MemoryRun, PixelRun, long_sequences

TINY = {
    "adding": MemoryRun("adding", "LSTM, forget bias 1", 8, 0.01, 0, n_iters=5),
    "copy": MemoryRun("copy", "tanh, orthogonal", 8, 0.01, 0, n_iters=5),
}
PIXELS = PixelRun("tanh", "permuted", 0.01, 0, n_iters=10, side=4, dataset="mnist-mini")
LESSON = scratch.load("12_long_term_dependencies")


def seeded(number):
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("steps", [2, 3, 9, 50])
def test_adding_problem_marks_one_step_in_each_half_and_asks_for_their_sum(steps):
    x, y = long_sequences.adding_problem(500, steps, seeded(0))
    values, marks = x[:, :, 0].double(), x[:, :, 1]
    assert x.shape == (500, steps, 2)
    assert y.shape == (500, 1)
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    assert (marks[:, : steps // 2].sum(dim=1) == 1).all()
    assert (marks[:, steps // 2 :].sum(dim=1) == 1).all()
    assert marks.any(dim=0).all(), "each step is marked now and then"
    torch.testing.assert_close(y[:, 0].double(), (values * marks).sum(dim=1), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, long_sequences.adding_problem(500, steps, seeded(0))[0])


def test_baseline_of_the_adding_problem_is_a_sixth():
    _, y = long_sequences.adding_problem(200_000, 6, seeded(1))
    assert (y - 1).square().mean().item() == pytest.approx(long_sequences.BASELINE["adding"], abs=0.002)


@pytest.mark.parametrize("steps", [4, 5, 30])
def test_copy_task_begins_with_the_letters_and_ends_with_the_sign_that_asks_for_them(steps):
    x, y = long_sequences.copy_task(500, steps, seeded(0))
    assert x.shape == (500, steps, 6)
    assert (x.sum(dim=2) == 1).all(), "one-hot"
    symbols = x.argmax(dim=2)
    assert torch.equal(symbols[:, :2], y)
    assert set(y.unique().tolist()) == {0, 1, 2, 3}
    assert (symbols[:, steps - 2] == 5).all()
    assert (symbols[:, 2 : steps - 2] == 4).all()
    assert (symbols[:, -1] == 4).all()


@pytest.mark.parametrize(
    ("make", "steps"), [("adding_problem", 1), ("copy_task", 3), ("adding_problem", 2.5)]
)
def test_sequences_that_are_too_short_are_refused(make, steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least"):
        getattr(long_sequences, make)(5, steps, seeded(0))
    with pytest.raises(ValueError, match="n must be a positive integer"):
        getattr(long_sequences, make)(0, 10, seeded(0))


def test_networks_start_as_their_names_say():
    torch.manual_seed(0)
    networks = {
        name: long_sequences.make_network(name, 2, 3, 32)
        for name in long_sequences.NETWORKS + long_sequences.OTHER_NETWORKS
    }
    assert {name: type(model.rnn if "rnn" in dict(model.named_children()) else model).__name__ for name, model in
            networks.items()} == {
        "tanh": "RNN", "tanh, orthogonal": "RNN", "IRNN": "RNN", "ReLU": "RNN", "tanh, gain 2": "RNN",
        "LSTM": "LSTMModel", "LSTM, forget bias 1": "LSTMModel", "LSTM, forget bias 3": "LSTMModel",
        "LSTM, forget bias 5": "LSTMModel", "GRU": "GRUModel",
    }  # fmt: skip
    relu = {
        name
        for name, model in networks.items()
        if getattr(model, "rnn", None) and model.rnn.nonlinearity == "relu"
    }
    assert relu == {"IRNN", "ReLU"}
    weights = {
        name: networks[name].rnn.weight_hh_l0 for name in ("IRNN", "tanh, orthogonal", "tanh, gain 2", "tanh")
    }
    assert torch.equal(weights["IRNN"], torch.eye(32))
    orthogonal = weights["tanh, orthogonal"]
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(32), atol=1e-5, rtol=0)
    assert weights["tanh, gain 2"].std().item() == pytest.approx(2 / 32**0.5, rel=0.1)
    assert weights["tanh"].abs().max() <= 32**-0.5
    for bias in (1, 3, 5):
        assert (networks[f"LSTM, forget bias {bias}"].lstm.bias_ih_l0[32:64] == bias).all()
    assert networks["LSTM"].lstm.bias_ih_l0.abs().max() <= 32**-0.5
    for model in networks.values():
        assert model(torch.zeros(4, 7, 2)).shape == (4, 3)


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'LSTM, forget bias 2'; did you mean"):
        long_sequences.make_network("LSTM, forget bias 2", 2, 1)


@pytest.mark.parametrize("name", ["tanh", "IRNN", "LSTM", "GRU"])
def test_arriving_gradient_is_that_of_the_lesson_at_every_lag(name):
    torch.manual_seed(0)
    layer = next(long_sequences.make_network(name, 2, 1, 7).children()).double()
    x, v = torch.randn(5, 9, 2, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    expected = LESSON["state_gradients"](layer, x, v)
    for lag in range(1, 9):
        assert long_sequences.arriving_gradient(layer, x, v, lag) == pytest.approx(
            expected[lag].item(), rel=1e-9
        )


@pytest.mark.parametrize("task", TINY)
def test_row_says_what_was_measured(task):
    run = TINY[task]
    row = experiments.row(run, "cpu")
    assert {name: row[name] for name in dataclasses.asdict(run)} == dataclasses.asdict(run)
    model, history = long_sequences.train(run, "cpu")
    assert row["error"] == history.error
    assert row["updates"] is history.updates is history.diverged_at is None
    assert row["early_loss"] == pytest.approx(sum(history.losses) / 5)
    layer, _ = run.make_model().double().children()
    generator = seeded(run.seed)
    x, _ = long_sequences.TASKS[task](32, 8, generator)
    v = nn.functional.normalize(torch.randn(32, 64, generator=generator, dtype=torch.float64), dim=1)
    lengths = LESSON["state_gradients"](layer, x.double(), v)
    assert row["gradient"] == pytest.approx(lengths[7].item())
    assert row["gradient_middle"] == pytest.approx(lengths[4].item())
    assert not torch.equal(model.fc.weight, run.make_model().fc.weight), "it was trained"


def test_error_of_the_copy_task_is_the_share_of_wrong_letters():
    run = TINY["copy"]
    x, y = long_sequences.copy_task(50, 8, seeded(0))
    right = nn.functional.one_hot(y, 4).float()
    fixed = dataclasses.make_dataclass("Fixed", ["task", "answers"])
    wrong = right.clone()
    wrong[:25, 0] = wrong[:25, 0].roll(1, dims=1)  # half of the first letters
    assert long_sequences._error(fixed("copy", lambda *_: right), None, x, y) == 0
    assert long_sequences._error(fixed("copy", lambda *_: wrong), None, x, y) == 0.25
    assert run.answers(run.make_model(), x).shape == (50, 2, 4)


def test_a_run_stops_as_soon_as_its_task_is_solved(monkeypatch):
    run = dataclasses.replace(TINY["adding"], n_iters=200)
    monkeypatch.setitem(long_sequences.SOLVED, "adding", 10.0)
    _, history = long_sequences.train(run, "cpu")
    assert history.updates == len(history.losses) == 50
    assert history.error < 10


def test_a_run_whose_loss_is_not_finite_ends_and_says_where():
    run = dataclasses.replace(TINY["adding"], model="IRNN", learning_rate=1e30, n_iters=200)
    _, history = long_sequences.train(run, "cpu")
    assert history.diverged_at == len(history.losses) < 200
    assert history.updates is None
    assert math.isfinite(history.losses[0])


@pytest.mark.parametrize("changed", [{"learning_rate": 0.02}, {"seed": 1}, {"model": "GRU"}, {"steps": 9}])
def test_each_setting_changes_the_training(changed):
    losses = [long_sequences.train(run, "cpu")[1].losses for run in
              (TINY["adding"], dataclasses.replace(TINY["adding"], **changed))]  # fmt: skip
    assert losses[0][2:] != losses[1][2:]


def search(path, winner):
    """A table of the search in which one rate wins each cell, by updates or, where none was solved, by the error."""
    rows = []
    for run in experiments.memory_search():
        won = run.learning_rate == winner[run.task]
        solved = run.task == "adding" and won
        rows.append({**dataclasses.asdict(run), "updates": 800 if solved else None,
                     "error": 0.3 if won else None})  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    return frame


def test_memory_takes_the_rate_that_solves_the_task_with_the_fewest_updates(tmp_path):
    search(tmp_path / "search.csv", {"adding": 0.003, "copy": 0.01})
    runs = experiments.memory(seeds=(3, 4), search=tmp_path / "search.csv")
    assert len(set(runs)) == len(runs) == 7 * (4 + 3) * 2
    assert {(run.task, run.learning_rate) for run in runs} == {("adding", 0.003), ("copy", 0.01)}
    assert {run.steps for run in runs} == {25, 50, 100, 200}
    assert {run.seed for run in runs} == {3, 4}


def test_seeds_of_the_search_are_not_those_of_the_table(tmp_path):
    search(tmp_path / "search.csv", {"adding": 0.003, "copy": 0.01})
    table = {run.seed for run in experiments.memory(search=tmp_path / "search.csv")}
    assert len(table) == 5
    assert not table & {run.seed for run in experiments.memory_search()}


def test_memory_wants_the_whole_search(tmp_path):
    with pytest.raises(ValueError, match="lacks 42 of 42 runs; train that search first"):
        experiments.memory(search=tmp_path / "none.csv")
    frame = search(tmp_path / "search.csv", {"adding": 0.003, "copy": 0.01})
    frame.iloc[:-2].to_csv(tmp_path / "search.csv", index=False)
    with pytest.raises(ValueError, match="lacks 2 of 42 runs"):
        experiments.memory(search=tmp_path / "search.csv")


def test_pixels_take_the_rate_with_the_best_accuracy(tmp_path):
    best = {"tanh": 0.001, "IRNN": 0.001, "LSTM, forget bias 1": 0.01, "GRU": 0.003}
    rows = [
        {**dataclasses.asdict(run), "accuracy": 0.9 if run.learning_rate == best[run.model] else 0.5}
        for run in experiments.pixels_search()
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "search.csv", index=False)
    runs = experiments.pixels(search=tmp_path / "search.csv")
    assert {run.model: run.learning_rate for run in runs} == best
    assert len(set(runs)) == len(runs) == 4 * 2 * 3
    assert not any(run.validation for run in runs)


def test_pixels_are_shrunk_by_averaging_and_permuted_in_one_order():
    images = torch.rand(6, 28, 28)
    labels = torch.arange(6)
    in_order, same = dataclasses.replace(PIXELS, order="in order").sequences((images, labels))
    assert in_order.shape == (6, 16, 1)
    assert torch.equal(same, labels)
    torch.testing.assert_close(in_order[:, 5, 0], images[:, 7:14, 7:14].mean(dim=(1, 2)))
    permuted = [dataclasses.replace(PIXELS, seed=seed).sequences((images, labels))[0] for seed in (0, 1)]
    assert torch.equal(*permuted)
    assert not torch.equal(permuted[0], in_order)
    assert torch.equal(permuted[0].sort(dim=1).values, in_order.sort(dim=1).values)


def test_row_of_pixels_holds_its_evaluations(monkeypatch):
    row = experiments.row(PIXELS, "cpu")
    assert {name: row[name] for name in dataclasses.asdict(PIXELS)} == dataclasses.asdict(PIXELS)
    assert row["accuracy"] == row["accuracy_10"]
    assert [name for name in row if name.startswith("accuracy_")] == [
        f"accuracy_{i}" for i in range(2, 11, 2)
    ]
    monkeypatch.setattr(long_sequences, "_N_VALIDATION", 1000)
    seen = {}
    monkeypatch.setattr(long_sequences.training, "fit", lambda *given, **_: seen.update(given=given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataclasses.replace(PIXELS, validation=True, order="in order").measure("cpu")
    _, _, (train, _), (held_out, labels) = seen["given"]
    images = long_sequences._images("mnist-mini")
    assert len(train) == len(images.train[0]) - 1000
    assert torch.equal(labels, images.train[1][-1000:])
    assert len(held_out) == 1000


@pytest.mark.parametrize("table", ["memory_search", "memory"])
def test_committed_tables_hold_the_declared_runs_and_no_others(table):
    declared = experiments.EXPERIMENTS[table]()
    frame = experiments.read_table(table)
    assert set(experiments.runs_of(frame, type(declared[0]))) == set(declared)
    assert len(frame) == len(declared)


@pytest.mark.network
def test_a_random_row_of_the_committed_table_can_be_repeated():
    one = experiments.read_table("memory").sample(1)
    (run,) = experiments.runs_of(one, MemoryRun)
    again = dataclasses.replace(run, n_iters=50).measure("cpu")
    assert again["early_loss"] == pytest.approx(one["early_loss"].item(), rel=0.02), run
    assert again["gradient"] == pytest.approx(one["gradient"].item(), rel=1e-3), run
