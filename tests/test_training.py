"""The training loop: what it computes, what it keeps, what it refuses."""

import copy
import functools
import math
import threading

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from labutils.recurrent import LSTMModel, RNNModel
from labutils.training import Evaluation, History, evaluate, fit, fit_all, pick_device, shuffled_batches

MISSING_DEVICE = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both


def lit_rows(n, seed):
    """Sequences of three rows of noise; the class says which of them is lit."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    inputs = 0.1 * torch.rand(n, 3, 4, generator=generator)
    inputs[torch.arange(n), labels] += 1
    return inputs, labels


TRAIN, TEST = lit_rows(50, 0), lit_rows(30, 1)


def a_run(kind=RNNModel, seed=0, lr=0.1, layers=1):
    torch.manual_seed(seed)
    model = kind(4, 8, layers, 3)
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def run(n_iters=10, lr=0.1, kind=RNNModel, **settings):
    """One short run; returns the trained model and the history."""
    model, optimizer = a_run(kind, lr=lr)
    settings = {"batch_size": 20, "device": "cpu", "verbose": False, **settings}
    return model, fit(model, optimizer, TRAIN, TEST, n_iters=n_iters, **settings)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def untimed(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.evaluations]


# --- the numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RNNModel, LSTMModel])
def test_fit_repeats_bit_for_bit(kind):
    (model, history), (again, history_again) = run(kind=kind), run(kind=kind)
    assert same_weights(model, again)
    assert history.losses == history_again.losses
    assert untimed(history) == untimed(history_again)


def test_seed_shuffles():
    _, history = run(seed=0)
    _, other = run(seed=1)
    assert history.losses != other.losses


def test_fit_does_not_touch_the_global_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    model, optimizer = a_run()
    torch.manual_seed(7)
    fit(model, optimizer, TRAIN, TEST, n_iters=3, device="cpu", verbose=False)
    assert torch.equal(torch.rand(3), expected)


def test_fit_equals_a_plain_loop():
    model, history = run(n_iters=7, seed=3, clip_norm=0.5)
    plain, optimizer = a_run()
    batches = shuffled_batches(50, 20, torch.Generator().manual_seed(3))
    losses = []
    for _ in range(7):
        index = next(batches)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(plain(TRAIN[0][index]), TRAIN[1][index])
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert same_weights(model, plain)
    assert history.losses == losses


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_fit_all_equals_fit_alone(n_jobs, capsys):
    kinds = {"small": (RNNModel, 1), "large": (LSTMModel, 2), "middle": (LSTMModel, 1)}
    runs = {label: a_run(kind, layers=layers) for label, (kind, layers) in kinds.items()}
    settings = {"n_iters": 20, "batch_size": 20, "eval_every": 10, "device": "cpu"}
    histories = fit_all(runs, TRAIN, TEST, n_jobs=n_jobs, **settings)
    assert list(histories) == list(kinds)
    out = capsys.readouterr().out
    assert all(f"{label:<8s} iteration    20  " in out for label in kinds)
    for label, (kind, layers) in kinds.items():
        model, optimizer = a_run(kind, layers=layers)
        alone = fit(model, optimizer, TRAIN, TEST, label=label, verbose=False, **settings)
        assert same_weights(runs[label][0], model)
        assert histories[label].label == label
        assert histories[label].losses == alone.losses
        assert untimed(histories[label]) == untimed(alone)


def test_adam_learns():
    model, _ = a_run(LSTMModel)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    history = fit(model, optimizer, TRAIN, TEST, n_iters=60, batch_size=20, device="cpu", verbose=False)
    assert history.accuracy == 1
    assert history.losses[-1] < 0.1 < history.losses[0]


def test_criterion_is_used_for_training_and_testing():
    criterion = nn.CrossEntropyLoss(label_smoothing=0.3)
    model, history = run(n_iters=1, criterion=criterion)
    start, _ = a_run()
    index = next(shuffled_batches(50, 20, torch.Generator().manual_seed(0)))
    assert history.losses[0] == criterion(start(TRAIN[0][index]), TRAIN[1][index]).item()
    assert history.evaluations[0]["test_loss"] == pytest.approx(criterion(model(TEST[0]), TEST[1]).item())


def test_inputs_are_not_modified():
    before = [tensor.clone() for tensor in (*TRAIN, *TEST)]
    run()
    for tensor, kept in zip((*TRAIN, *TEST), before, strict=True):
        assert torch.equal(tensor, kept)
        assert not tensor.requires_grad
        assert tensor.grad is None


# --- history --------------------------------------------------------------------------------------------


def test_history():
    model, history = run(n_iters=10, eval_every=4, label="mine")
    assert history.label == "mine"
    assert len(history.losses) == 10
    assert history.gradient_norms == []
    assert history.diverged_at is None
    frame = history.to_frame()
    assert list(frame.columns) == ["iteration", "train_loss", "test_loss", "accuracy", "seconds"]
    assert frame["iteration"].tolist() == [4, 8, 10]
    means = [sum(part) / len(part) for part in (history.losses[:4], history.losses[4:8], history.losses[8:])]
    assert frame["train_loss"].tolist() == pytest.approx(means)
    assert frame["seconds"].is_monotonic_increasing
    assert history.seconds == frame["seconds"].iloc[-1]
    last = evaluate(model, *TEST)
    assert (history.accuracy, frame["test_loss"].iloc[-1]) == (last.accuracy, last.loss)


@pytest.mark.parametrize(
    ("n_iters", "eval_every", "expected"),
    [(10, 5, [5, 10]), (10, 100, [10]), (3, 1, [1, 2, 3]), (1, 500, [1])],
)
def test_eval_every(n_iters, eval_every, expected):
    _, history = run(n_iters=n_iters, eval_every=eval_every)
    assert [row["iteration"] for row in history.evaluations] == expected


def test_verbose_prints_a_line_an_evaluation(capsys):
    run(n_iters=4, eval_every=2, label="mine", verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("mine     iteration     4  train loss ")
    run(n_iters=4, eval_every=2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quantity", ["accuracy", "train_loss", "test_loss"])
def test_plot(quantity):
    _, history = run(n_iters=6, eval_every=2, label="mine")
    ax = Figure().subplots()
    assert history.plot(ax, quantity, color="red", marker="x") is ax
    (line,) = ax.lines
    assert list(line.get_xdata()) == [2, 4, 6]
    assert list(line.get_ydata()) == [row[quantity] for row in history.evaluations]
    assert (line.get_label(), line.get_color(), line.get_marker()) == ("mine", "red", "x")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", quantity.replace("_", " "))


def test_histories_do_not_share_their_lists():
    History().losses.append(1.0)
    assert History().losses == []


def test_last_batch_of_a_pass_may_be_smaller():
    batches = shuffled_batches(10, 4, torch.Generator().manual_seed(0))
    passes = [[next(batches) for _ in range(3)] for _ in range(2)]
    for one in passes:
        assert [len(batch) for batch in one] == [4, 4, 2]
        assert sorted(torch.cat(one).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))


def test_fit_uses_the_smaller_batch_too():
    sizes = []

    def criterion(scores, labels):
        if scores.requires_grad:
            sizes.append(len(labels))
        return nn.functional.cross_entropy(scores, labels)

    run(n_iters=4, criterion=criterion)
    assert sizes == [20, 20, 10, 20]


def test_batch_larger_than_the_data():
    _, history = run(n_iters=2, batch_size=1000)
    assert len(history.losses) == 2


# --- divergence, clipping, stopping ---------------------------------------------------------------------


LONG = [(inputs.repeat(1, 10, 1), labels) for inputs, labels in (TRAIN, TEST)]  # 30 steps multiply an error


def test_divergence_is_a_result(capsys):
    model, optimizer = a_run(lr=1e6)
    history = fit(model, optimizer, *LONG, n_iters=200, clip_norm=math.inf, device="cpu", label="wild")
    assert 1 < history.diverged_at < 200
    assert len(history.losses) == history.diverged_at == len(history.gradient_norms)
    assert not math.isfinite(history.losses[-1])
    assert all(math.isfinite(loss) for loss in history.losses[:-1])
    assert 0 <= history.accuracy <= 1
    assert history.evaluations[-1]["iteration"] < 200
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"wild     diverged: the loss is not finite since iteration {history.diverged_at}; the run"
    )


def test_divergence_of_one_does_not_stop_the_others():
    runs = {"wild": a_run(lr=1e6), "calm": a_run()}
    histories = fit_all(runs, *LONG, n_iters=100, device="cpu", verbose=False)
    assert histories["wild"].diverged_at
    assert histories["calm"].diverged_at is None
    assert len(histories["calm"].losses) == 100


def gradient_norm_at_the_start():
    model, _ = a_run()
    index = next(shuffled_batches(50, 20, torch.Generator().manual_seed(0)))
    nn.functional.cross_entropy(model(TRAIN[0][index]), TRAIN[1][index]).backward()
    return math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in model.parameters()))


@pytest.mark.parametrize("fraction", [0.01, 0.5, 2.0])
def test_clipping_bounds_the_step_and_records_the_norm(fraction):
    norm = gradient_norm_at_the_start()
    start, _ = a_run()
    model, history = run(n_iters=1, lr=1.0, clip_norm=fraction * norm)
    step = [(a - b).double() for a, b in zip(start.parameters(), model.parameters(), strict=True)]
    taken = math.sqrt(sum((s**2).sum().item() for s in step))
    assert taken == pytest.approx(min(fraction, 1) * norm, rel=1e-4)
    assert history.gradient_norms == [pytest.approx(norm, rel=1e-5)]


def test_infinite_clip_norm_only_records():
    model, history = run(n_iters=8, clip_norm=math.inf)
    plain, plain_history = run(n_iters=8)
    assert same_weights(model, plain)
    assert history.losses == plain_history.losses
    assert len(history.gradient_norms) == 8
    assert all(0 < norm < math.inf for norm in history.gradient_norms)


def test_schedule_is_stepped_after_every_update():
    model, optimizer = a_run(lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 3))
    fit(
        model,
        optimizer,
        TRAIN,
        TEST,
        n_iters=10,
        batch_size=20,
        device="cpu",
        verbose=False,
        schedule=schedule,
    )
    three_updates, _ = run(n_iters=3, lr=0.5)
    assert same_weights(model, three_updates)


def test_stop_ends_the_run_after_the_current_iteration():
    stop, seen = threading.Event(), []

    def criterion(scores, labels):
        seen.append(scores.requires_grad)
        if sum(seen) == 3:
            stop.set()
        return nn.functional.cross_entropy(scores, labels)

    _, history = run(n_iters=1000, criterion=criterion, stop=stop)
    assert len(history.losses) == 3
    assert [row["iteration"] for row in history.evaluations] == [3]


def test_stop_that_is_not_set_changes_nothing():
    assert run(stop=threading.Event())[1].losses == run()[1].losses


class Failing(RNNModel):
    def forward(self, x):
        raise ArithmeticError("this model fails")


@pytest.mark.parametrize("order", [["bad", "good"], ["good", "bad"]])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_fit_all_hands_on_an_error_and_stops_the_others(n_jobs, order):
    torch.manual_seed(0)
    failing = Failing(4, 100, 1, 3)
    steps = []

    class Counting(torch.optim.SGD):
        def step(self, *args, **kwargs):
            steps.append(1)
            return super().step(*args, **kwargs)

    model, _ = a_run()
    runs = {
        "bad": (failing, torch.optim.SGD(failing.parameters(), lr=0.1)),
        "good": (model, Counting(model.parameters(), lr=0.1)),
    }
    ordered = {label: runs[label] for label in order}
    with pytest.raises(ArithmeticError, match="this model fails"):
        fit_all(ordered, TRAIN, TEST, n_jobs=n_jobs, n_iters=20_000, device="cpu", verbose=False)
    assert len(steps) < 20_000


# --- evaluation -----------------------------------------------------------------------------------------


def with_dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_mode_as_it_was(training):
    model = with_dropout().train(training)
    first, second = evaluate(model, *TEST), evaluate(model, *TEST)
    assert all(module.training is training for module in model.modules())
    assert first.loss == second.loss  # no dropout meanwhile


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_evaluate_equals_a_plain_computation(batch_size):
    model = with_dropout()
    result = evaluate(model, *TEST, batch_size=batch_size)
    scores = model.eval()(TEST[0])
    assert isinstance(result, Evaluation)
    assert result.loss == pytest.approx(nn.functional.cross_entropy(scores, TEST[1]).item())
    assert torch.equal(result.predictions, scores.argmax(dim=1))
    assert result.accuracy == (scores.argmax(dim=1) == TEST[1]).sum().item() / 30


def test_evaluate_builds_no_graph():
    asked = []

    def criterion(scores, labels):
        asked.append(scores.requires_grad)
        return nn.functional.cross_entropy(scores, labels)

    model = with_dropout()
    evaluate(model, *TEST, criterion=criterion)
    assert asked == [False]
    assert all(p.grad is None for p in model.parameters())


def test_fit_evaluates_without_dropout_and_trains_with_it():
    model = with_dropout()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model.eval(), optimizer, TRAIN, TEST, n_iters=3, eval_every=1, device="cpu", verbose=False)
    assert model.training
    assert history.accuracy == evaluate(model, *TEST).accuracy


# --- devices and bad input ------------------------------------------------------------------------------


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    best = pick_device()
    assert best.type in ("cuda", "mps", "cpu")
    assert (best.type == "cuda") == torch.cuda.is_available()
    assert pick_device("auto") == best


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (MISSING_DEVICE, f"device '{MISSING_DEVICE}' is not available on this machine; use 'auto' or 'cpu'"),
        ("gpu", "device must be one of auto, cpu, cuda, mps, got 'gpu'"),
        ("", "device must be one of auto, cpu, cuda, mps, got ''"),
        (None, "device must be one of auto, cpu, cuda, mps, got None"),
    ],
)
def test_bad_device_is_one_sentence(name, message):
    for call in (lambda: pick_device(name), lambda: run(device=name)):
        with pytest.raises(ValueError, match="device") as caught:
            call()
        assert str(caught.value) == message


def refused(error_type=ValueError, train=TRAIN, test=TEST, **settings):
    """Message with which `fit` refuses; the model must be as it was."""
    model, optimizer = a_run()
    before = copy.deepcopy(model)
    with pytest.raises(error_type) as caught:
        fit(model, optimizer, train, test, **{"n_iters": 2, "device": "cpu", "verbose": False, **settings})
    assert same_weights(model, before)
    return str(caught.value)


@pytest.mark.parametrize("name", ["n_iters", "batch_size", "eval_every"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "10", None, True])
def test_bad_count_is_refused(name, value):
    assert refused(**{name: value}) == f"{name} must be a positive integer, got {value!r}"


@pytest.mark.parametrize("value", [0, -1, 1.5, None, True])
def test_bad_number_of_jobs_is_refused(value):
    with pytest.raises(ValueError, match="n_jobs must be a positive integer, got"):
        fit_all({"one": a_run()}, TRAIN, TEST, n_jobs=value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, -math.inf])
def test_bad_clip_norm_is_refused(value):
    assert refused(clip_norm=value) == f"clip_norm must be a positive number or None, got {value!r}"


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize(("n_inputs", "n_labels"), [(0, 0), (5, 4), (0, 5), (5, 0)])
def test_bad_data_is_refused(which, n_inputs, n_labels):
    message = refused(**{which: (TRAIN[0][:n_inputs], TRAIN[1][:n_labels])})
    assert message == (
        f"{which} needs as many labels as inputs, and at least one; "
        f"got {n_inputs} inputs and {n_labels} labels"
    )


def test_evaluate_refuses_an_empty_set_and_restores_the_mode_after_an_error():
    with pytest.raises(ValueError, match="as many labels as inputs, and at least one; got 0 inputs"):
        evaluate(with_dropout(), TEST[0][:0], TEST[1][:0])
    failing = Failing(4, 3, 1, 3).train()
    with pytest.raises(ArithmeticError):
        evaluate(failing, *TEST)
    assert failing.training


def test_divergence_in_the_last_update_is_noticed():
    model, _ = a_run()
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    assert fit(model, optimizer, TRAIN, TEST, n_iters=1, device="cpu").diverged_at == 1


@pytest.mark.parametrize("seed", ["x", 1.5, None])
def test_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        fit(*a_run(), TRAIN, TEST, seed=seed)


# --- labels, weights, randomness ------------------------------------------------------------------------


def one_more_way(labels, way):
    return {
        "column": labels[:, None],
        "row": labels[None],
        "one-hot": nn.functional.one_hot(labels, 3),
        "floats": labels.double(),
        "too large": labels + 1,
        "negative": labels - 1,
        "nan": labels / 0.0,
        "one number": labels[0],
        "words": [str(label) for label in labels.tolist()],
        "nothing": None,
    }[way]


BAD_LABELS = {
    "column": "must have the shape (n,), a class each, got ({n}, 1); labels.flatten() has it",
    "row": "needs as many labels as inputs, and at least one; got {n} inputs and 1 labels",
    "one-hot": "must have the shape (n,), a class each, got ({n}, 3); labels.argmax(dim=1), if they are one-hot, has it",
    "floats": "must be integers, the numbers of classes, got float64",
    "too large": "must be from 0 to 2, as the model scores 3 classes, got 3",
    "negative": "must be from 0 to 2, as the model scores 3 classes, got -1",
    "nan": "must be integers, the numbers of classes, got float32",
    "one number": "needs inputs of shape (n, ...) and labels of shape (n,), got a single number",
    "words": "must be a tensor or an array of numbers, got a list",
    "nothing": "must be a tensor or an array of numbers, got a NoneType",
}


def squeezing(scores, labels):
    return nn.functional.cross_entropy(scores, labels.squeeze(1))


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("way", BAD_LABELS)
def test_bad_labels_are_refused(way, which):
    inputs, labels = {"train": TRAIN, "test": TEST}[which]
    message = refused((ValueError, TypeError), **{which: (inputs, one_more_way(labels, way))})
    assert message.startswith((f"the labels of {which} ", f"{which} needs"))
    assert message.endswith(BAD_LABELS[way].format(n=len(labels)))


@pytest.mark.parametrize("way", BAD_LABELS)
def test_evaluate_refuses_bad_labels(way):
    model, _ = a_run()
    with pytest.raises((ValueError, TypeError), match="the data set"):
        evaluate(model, TEST[0], one_more_way(TEST[1], way))


def test_a_column_of_labels_is_refused_also_with_a_criterion_that_squeezes():
    """Accuracy compared (n,) with (n, 1), and came out as 20.0."""
    column = (TEST[0], TEST[1][:, None])
    assert "must have the shape (n,)" in refused(criterion=squeezing, test=column)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_of_any_integer_type_serve(dtype):
    two = [(inputs[labels < 2], labels[labels < 2]) for inputs, labels in (TRAIN, TEST)]
    histories = []
    for kind in (torch.int64, dtype):
        parts = [(inputs, labels.to(kind)) for inputs, labels in two]
        histories.append(fit(*a_run(), *parts, n_iters=3, batch_size=20, device="cpu", verbose=False))
    assert histories[0].losses == histories[1].losses
    assert untimed(histories[0]) == untimed(histories[1])


def some_ignored(labels, n, ignored=-100):
    labels = labels.clone()
    labels[:n] = ignored
    return labels


@pytest.mark.parametrize("batch_size", [1, 7, 30])
@pytest.mark.parametrize("ignored", [-100, 0, 255])
def test_ignored_labels_count_nowhere(batch_size, ignored):
    """Also where they fill whole batches, whose own mean is nan."""
    model, criterion = with_dropout(), nn.CrossEntropyLoss(ignore_index=ignored)
    labels = some_ignored(TEST[1], 14, ignored)
    result = evaluate(model, TEST[0], labels, criterion=criterion, batch_size=batch_size)
    scores, counted = model.eval()(TEST[0]), labels != ignored
    assert result.loss == pytest.approx(criterion(scores, labels).item())
    right = (scores.argmax(dim=1) == labels) & counted
    assert result.accuracy == pytest.approx(right.sum().item() / counted.sum().item())
    assert torch.equal(result.predictions, scores.argmax(dim=1))


@pytest.mark.parametrize(
    "criterion", [None, functools.partial(nn.functional.cross_entropy, ignore_index=-100)]
)
def test_a_run_with_ignored_labels_is_healthy_and_equals_one_without_these_samples(criterion):
    parts = [(inputs, some_ignored(labels, 20)) for inputs, labels in (TRAIN, TEST)]
    rest = [(inputs[20:], labels[20:]) for inputs, labels in (TRAIN, TEST)]
    settings = {"n_iters": 60, "batch_size": 3, "eval_every": 1, "device": "cpu", "verbose": False}
    (model, optimizer), (other, other_optimizer) = a_run(), a_run()
    history = fit(model, optimizer, *parts, criterion=criterion, **settings)
    expected = fit(other, other_optimizer, *rest, criterion=criterion, **settings)
    assert history.diverged_at is None
    assert history.losses == expected.losses
    assert untimed(history) == untimed(expected)


def test_ignored_labels_of_a_partial_function():
    criterion = functools.partial(nn.functional.cross_entropy, ignore_index=2)
    kept = TEST[1] != 2
    result = evaluate(with_dropout(), *TEST, criterion=criterion)
    expected = evaluate(with_dropout(), TEST[0][kept], TEST[1][kept])
    assert (result.loss, result.accuracy) == (pytest.approx(expected.loss), pytest.approx(expected.accuracy))


@pytest.mark.parametrize("which", ["train", "test"])
def test_labels_that_are_all_ignored_are_refused(which):
    inputs, labels = TEST
    message = refused(**{which: (inputs, some_ignored(labels, 30))})
    assert message == f"{which} needs a label that counts; all are -100, which the criterion ignores"
    with pytest.raises(ValueError, match="the data set needs a label that counts"):
        evaluate(with_dropout(), inputs, some_ignored(labels, 30))


@pytest.mark.parametrize("batch_size", [1, 7, 29, 30, 1000])
def test_loss_with_class_weights_is_the_criterions_own_whatever_the_batches(batch_size):
    model, criterion = with_dropout(), nn.CrossEntropyLoss(torch.tensor([0.1, 1.0, 20.0]))
    expected = criterion(model.eval()(TEST[0]), TEST[1]).item()
    assert evaluate(model, *TEST, criterion=criterion, batch_size=batch_size).loss == pytest.approx(
        expected, rel=1e-6
    )


class Drawing(nn.Module):
    """A linear readout with noise in its forward pass, from torch's global generator, also in evaluation."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        scores = self.fc(x.flatten(1))
        return scores + torch.randn_like(scores)


def a_drawing_run(make, seed=0):
    torch.manual_seed(seed)
    model = make()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("make", [with_dropout, Drawing])
def test_what_a_model_draws_repeats_bit_for_bit_and_leaves_the_generator_alone(make):
    settings = {"n_iters": 9, "batch_size": 20, "eval_every": 4, "device": "cpu", "verbose": False}
    runs = []
    for drawn_before in (1, 2):
        model, optimizer = a_drawing_run(make)
        torch.manual_seed(drawn_before)
        history = fit(model, optimizer, TRAIN, TEST, **settings)
        after = torch.rand(3)
        torch.manual_seed(drawn_before)
        assert torch.equal(after, torch.rand(3))
        runs.append((model, history))
    assert same_weights(runs[0][0], runs[1][0])
    assert runs[0][1].losses == runs[1][1].losses
    assert untimed(runs[0][1]) == untimed(runs[1][1])
    other = fit(*a_drawing_run(make), TRAIN, TEST, seed=1, **settings)
    assert other.losses != runs[0][1].losses


def test_models_that_draw_are_trained_side_by_side_as_they_would_be_alone():
    kinds = {"noisy": Drawing, "dropped": with_dropout, "also dropped": with_dropout}
    settings = {"n_iters": 40, "batch_size": 5, "eval_every": 10, "device": "cpu", "verbose": False}
    runs = {label: a_drawing_run(make, seed) for seed, (label, make) in enumerate(kinds.items())}
    runs["plain"] = a_run()
    torch.manual_seed(5)
    histories = fit_all(runs, TRAIN, TEST, n_jobs=4, **settings)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    for seed, (label, make) in enumerate(kinds.items()):
        model, optimizer = a_drawing_run(make, seed)
        alone = fit(model, optimizer, TRAIN, TEST, **settings)
        assert histories[label].losses == alone.losses
        assert same_weights(runs[label][0], model)


def test_models_that_draw_nothing_do_not_wait_for_each_other():
    """Each of two runs goes on only once the other is at the same iteration."""
    together = threading.Barrier(2, timeout=60)

    def criterion(scores, labels):
        if scores.requires_grad:
            steps.n = getattr(steps, "n", 0) + 1
            if steps.n > 1:
                together.wait()
        return nn.functional.cross_entropy(scores, labels)

    steps = threading.local()
    runs = {"one": a_run(), "other": a_run(LSTMModel)}
    histories = fit_all(runs, TRAIN, TEST, n_iters=5, criterion=criterion, device="cpu", verbose=False)
    assert [len(history.losses) for history in histories.values()] == [5, 5]


# --- optimizers and schedules ---------------------------------------------------------------------------


def test_lbfgs_trains():
    model, _ = a_run()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    start = copy.deepcopy(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    settings = {"n_iters": 10, "batch_size": 50, "device": "cpu", "verbose": False}
    history = fit(model, optimizer, TRAIN, TEST, clip_norm=math.inf, schedule=schedule, **settings)
    first = nn.functional.cross_entropy(start(TRAIN[0]), TRAIN[1]).item()
    assert history.losses[0] == pytest.approx(first, rel=1e-5), "the loss before the first update"
    assert len(history.losses) == len(history.gradient_norms) == 10
    assert history.losses[-1] < 0.1 * first


def other_parameters(model, which):
    other, _ = a_run(LSTMModel)
    if which == "another model's":
        return other.parameters()
    if which == "a copy's":
        return copy.deepcopy(model).parameters()
    return [*model.parameters(), other.fc.bias]


@pytest.mark.parametrize(
    ("which", "foreign"),
    [("another model's", "6 of its 6"), ("a copy's", "6 of its 6"), ("one of 7", "1 of its 7")],
)
def test_optimizer_of_another_model_is_refused(which, foreign):
    model, _ = a_run()
    optimizer = torch.optim.SGD(other_parameters(model, which), lr=0.1)
    with pytest.raises(
        ValueError, match=f"made with parameters of this model: {foreign} are not the model's"
    ):
        fit(model, optimizer, TRAIN, TEST, n_iters=1, device="cpu", verbose=False)


def test_optimizer_of_a_part_of_the_model_trains_and_clips_that_part():
    (model, _), (other, _) = a_run(), a_run()
    other.rnn.requires_grad_(False)
    settings = {"n_iters": 8, "batch_size": 20, "clip_norm": 0.1, "device": "cpu", "verbose": False}
    histories = [
        fit(one, torch.optim.SGD(one.fc.parameters(), lr=0.5), TRAIN, TEST, **settings)
        for one in (model, other)
    ]
    assert histories[0].losses == histories[1].losses
    assert histories[0].gradient_norms == histories[1].gradient_norms, (
        "gradients of the other part do not count"
    )
    start, _ = a_run()
    assert torch.equal(model.rnn.weight_hh_l0, start.rnn.weight_hh_l0)
    assert not torch.equal(model.fc.weight, start.fc.weight)


def test_optimizer_may_hold_parameters_of_the_criterion():
    class Sharpened(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, scores, labels):
            return nn.functional.cross_entropy(self.scale * scores, labels)

    model, criterion = with_dropout(), Sharpened()
    optimizer = torch.optim.SGD([*model.parameters(), criterion.scale], lr=0.1)
    fit(model, optimizer, TRAIN, TEST, n_iters=2, criterion=criterion, device="cpu", verbose=False)
    assert criterion.scale.item() != 1


def test_frozen_model_is_refused():
    model, optimizer = a_run()
    model.requires_grad_(False)
    with pytest.raises(
        ValueError, match="must hold a parameter that requires a gradient; there is nothing to train"
    ):
        fit(model, optimizer, TRAIN, TEST, n_iters=1, device="cpu")


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_model_without_a_gradient_is_refused(clip_norm):
    class Detached(RNNModel):
        def forward(self, x):
            return super().forward(x).detach()

    model = Detached(4, 8, 1, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the loss must depend on the model's parameters by operations"):
        fit(model, optimizer, TRAIN, TEST, n_iters=1, clip_norm=clip_norm, device="cpu")


def test_what_is_no_optimizer_is_refused():
    model, _ = a_run()
    for optimizer, got in ((torch.optim.SGD, "the class SGD"), (None, "a NoneType"), (model, "a RNNModel")):
        with pytest.raises(TypeError, match=f"optimizer must be one of torch.optim, .* got {got}"):
            fit(model, optimizer, TRAIN, TEST, n_iters=1, device="cpu")


SCHEDULERS = torch.optim.lr_scheduler
SCHEDULES = {
    "wants a metric": (
        SCHEDULERS.ReduceLROnPlateau,
        TypeError,
        "without a metric, such as OneCycleLR, got a Reduce",
    ),
    "of another optimizer": (
        lambda _: SCHEDULERS.ConstantLR(a_run()[1]),
        ValueError,
        "made for the optimizer that it is given with; it is made for another",
    ),
    "too short": (
        lambda optimizer: SCHEDULERS.OneCycleLR(optimizer, 0.1, total_steps=5),
        ValueError,
        "last for n_iters=6 updates; it has 5 left",
    ),
    "a class": (lambda _: SCHEDULERS.StepLR, TypeError, "got the class StepLR"),
    "a number": (lambda _: 0.5, TypeError, "got a float"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_that_cannot_be_stepped_after_each_update_is_refused(name):
    make, error_type, message = SCHEDULES[name]
    model, optimizer = a_run()
    with pytest.raises(error_type, match=f"^schedule must .*{message}"):
        fit(model, optimizer, TRAIN, TEST, n_iters=6, schedule=make(optimizer), device="cpu", verbose=False)
    assert same_weights(model, a_run()[0])


def test_schedule_may_end_with_the_run():
    model, optimizer = a_run()
    schedule = SCHEDULERS.OneCycleLR(optimizer, 0.1, total_steps=6)
    fit(model, optimizer, TRAIN, TEST, n_iters=6, schedule=schedule, device="cpu", verbose=False)
    assert schedule.last_epoch == 6


def test_two_runs_of_one_model_are_refused():
    model, optimizer = a_run()
    runs = {
        "one": (model, optimizer),
        "two": a_run(),
        "three": (model, torch.optim.SGD(model.parameters(), lr=1)),
    }
    with pytest.raises(ValueError, match="a model of its own; 'one' and 'three' share parameters"):
        fit_all(runs, TRAIN, TEST, n_iters=1, device="cpu")


# --- kinds of data, of models, of criteria --------------------------------------------------------------


def as_frames(inputs, labels):
    return pd.DataFrame(inputs.numpy()), pd.Series(labels.numpy(), index=range(5, len(labels) + 5))


def read_only(inputs, labels):
    arrays = inputs.numpy().copy(), labels.numpy().copy()
    for array in arrays:
        array.setflags(write=False)
    return arrays


FORMS = {
    "lists": lambda inputs, labels: (inputs.tolist(), labels.tolist()),
    "float32 arrays": lambda inputs, labels: (inputs.numpy(), labels.numpy()),
    "float64 arrays": lambda inputs, labels: (inputs.double().numpy(), labels.int().numpy()),
    "big-endian arrays": lambda inputs, labels: (inputs.numpy().astype(">f4"), labels.numpy().astype(">i2")),
    "reversed twice": lambda inputs, labels: (
        inputs.numpy()[::-1].copy()[::-1],
        labels.numpy()[::-1].copy()[::-1],
    ),
    "read-only arrays": read_only,
    "frames": as_frames,
    "float64 tensors": lambda inputs, labels: (inputs.double(), labels),
    "a list of two": lambda inputs, labels: [inputs, labels],
    "with gradients": lambda inputs, labels: (inputs.clone().requires_grad_(), labels),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
def test_arrays_and_lists_serve_as_tensors_do(form):
    flat = [(inputs.flatten(1), labels) for inputs, labels in (TRAIN, TEST)]

    def make():
        torch.manual_seed(0)
        return nn.Linear(12, 3)

    results = []
    for parts in (flat, [FORMS[form](*part) for part in flat]):
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        history = fit(model, optimizer, *parts, n_iters=5, batch_size=20, device="cpu", verbose=False)
        results.append((history.losses, untimed(history), evaluate(model, *parts[1]).loss))
        both = fit_all({"one": a_linear_run()}, *parts, n_iters=5, batch_size=20, device="cpu", verbose=False)
        results[-1] += (both["one"].losses,)
    assert results[0] == results[1]


def a_linear_run():
    torch.manual_seed(0)
    model = nn.Linear(12, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_model_in_double_precision_gets_its_inputs_so():
    model, _ = a_run()
    model.double()
    fit(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        TRAIN,
        TEST,
        n_iters=1,
        device="cpu",
        verbose=False,
    )
    assert 0 <= evaluate(model, *TEST).accuracy <= 1


def test_integer_inputs_stay_integers():
    """As an embedding needs them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(3, 5), nn.Linear(5, 3))
    tokens = TRAIN[1][:, None].repeat(1, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    history = fit(
        model, optimizer, (tokens, TRAIN[1]), (tokens, TRAIN[1]), n_iters=40, device="cpu", verbose=False
    )
    assert history.accuracy == 1


DATASET = TensorDataset(*TRAIN)
LOADERS = {
    "a DataLoader": DataLoader(DATASET),
    "a TensorDataset": DATASET,
    "a Tensor": TRAIN[0],
    "a NoneType": None,
    "3 things": (*TRAIN, None),
    "a dict": dict(zip(("inputs", "labels"), TRAIN, strict=True)),
}


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("got", LOADERS)
def test_what_is_no_pair_is_refused(got, which):
    message = refused(TypeError, **{which: LOADERS[got]})
    assert message.startswith(
        f"{which} must be a pair of tensors or arrays, all inputs and all labels, got {got}; "
    )


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(which, value):
    inputs = TEST[0].clone()
    inputs[3, 1, 2] = value
    message = refused(**{which: (inputs, TEST[1])})
    assert message == f"the inputs of {which} must be finite; they contain nan or infinity"
    with pytest.raises(ValueError, match="the inputs of the data set must be finite"):
        evaluate(a_run()[0], inputs, TEST[1])


@pytest.mark.parametrize("which", ["train", "test"])
def test_inputs_that_do_not_fit_the_model_are_refused_before_the_training(which):
    message = refused(**{which: (TEST[0][:, :, :3], TEST[1])})
    assert "sequences must have the shape (batch, time, 4), with a time step at least, got (" in message
    model, optimizer = a_linear_run()
    parts = {"train": (TRAIN[0].flatten(1), TRAIN[1]), "test": (TEST[0].flatten(1), TEST[1])}
    parts[which] = TEST
    with pytest.raises(
        ValueError, match=rf"able to use {which}, here a batch of shape \(\d+, 3, 4\) and type float32"
    ):
        fit(model, optimizer, **parts, device="cpu")


def test_integer_images_are_refused_in_a_sentence():
    model, optimizer = a_linear_run()
    bytes_ = ((255 * TRAIN[0]).byte().flatten(1), TRAIN[1])
    with pytest.raises(ValueError, match=r"able to use train, here a batch of shape .* and type uint8: "):
        fit(model, optimizer, bytes_, bytes_, device="cpu")


class Answering(nn.Module):
    """A model whose answer is made of its scores by a function."""

    def __init__(self, answer):
        super().__init__()
        self.fc, self.answer = nn.Linear(12, 3), answer

    def forward(self, x):
        return self.answer(self.fc(x.flatten(1)))


ANSWERS = {
    "a tuple": (
        lambda scores: (scores, scores),
        TypeError,
        "a tensor of class scores, got a tuple",
    ),
    "a dict": (
        lambda scores: {"scores": scores},
        TypeError,
        "a tensor of class scores, got a dict",
    ),
    "nothing": (lambda scores: None, TypeError, "a tensor of class scores, got a NoneType"),
    "classes": (
        lambda scores: scores.argmax(dim=1),
        ValueError,
        r"shape \(batch, classes\), here \(\d+, classes\), got",
    ),
    "the batch second": (
        lambda scores: scores.T,
        ValueError,
        r"shape \(batch, classes\), here \(\d+, classes\), got",
    ),
    "a score a step": (lambda scores: scores[:, None], ValueError, r"classes\), got \(\d+, 1, 3\)"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_models_that_give_no_scores_are_refused(name):
    answer, error_type, message = ANSWERS[name]
    model = Answering(answer)
    with pytest.raises(error_type, match=f"^the model must give .*{message}"):
        evaluate(model, *TEST)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error_type, match=f"^the model must give .*{message}"):
        fit(model, optimizer, TRAIN, TEST, n_iters=1, device="cpu")


@pytest.mark.parametrize("model", [RNNModel, None, torch.relu])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match=r"^model must be a torch\.nn\.Module, got"):
        evaluate(model, *TEST)
    with pytest.raises(TypeError, match=r"^model must be a torch\.nn\.Module, got"):
        fit(model, a_run()[1], TRAIN, TEST)


def test_a_model_without_parameters_can_be_evaluated_but_not_trained():
    model = nn.Flatten()
    one_hot = nn.functional.one_hot(TEST[1], 3).float()
    assert evaluate(model, one_hot, TEST[1]).accuracy == 1
    with pytest.raises(ValueError, match="optimizer must be made with parameters of this model: 6 of its 6"):
        fit(model, a_run()[1], TRAIN, TEST, device="cpu")


CRITERIA = {
    "a loss a sample": (nn.CrossEntropyLoss(reduction="none"), ValueError, r"got the shape \(\d+,\)"),
    "a float": (lambda scores, labels: 0.5, ValueError, "got a float"),
    "nothing": (lambda scores, labels: None, ValueError, "got a NoneType"),
    "a class": (nn.CrossEntropyLoss, TypeError, "got the class CrossEntropyLoss"),
    "a word": ("cross_entropy", TypeError, "got a str"),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_that_give_no_number_are_refused(name):
    criterion, error_type, message = CRITERIA[name]
    assert refused(error_type, criterion=criterion).startswith("criterion must ")
    with pytest.raises(error_type, match=f"^criterion must .*{message}"):
        evaluate(a_run()[0], *TEST, criterion=criterion)


def test_a_criterion_for_other_labels_is_refused():
    assert refused(criterion=nn.BCEWithLogitsLoss()).startswith("Target size")  # torch's own sentence
    assert refused(criterion=nn.MultiLabelMarginLoss()).startswith(
        "model and criterion must be able to use train"
    )


def test_predictions_are_ordinary_tensors():
    model, optimizer = a_run()
    predictions = evaluate(model, *TEST).predictions
    assert not predictions.is_inference()
    nn.functional.cross_entropy(model(TEST[0]), predictions).backward()  # as targets
    predictions[0] = 2
    assert predictions[0] == 2
    weights = torch.ones(30, requires_grad=True)
    (weights * predictions).sum().backward()
    fit(model, optimizer, TRAIN, (TEST[0], predictions), n_iters=1, device="cpu", verbose=False)


def test_what_a_model_keeps_of_an_evaluation_is_an_ordinary_tensor():
    def keep(scores):
        kept.append(scores)
        return scores

    kept = []
    evaluate(Answering(keep), *TEST)
    assert not kept[0].is_inference()


@pytest.mark.parametrize("seed", [True, 2.0, "0"])
def test_seed_that_only_looks_like_an_integer_is_refused(seed):
    assert "seed must be an integer" in refused(TypeError, seed=seed)
