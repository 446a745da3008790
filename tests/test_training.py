"""The training loop: what it computes, what it keeps, what it refuses."""

import copy
import math
import threading

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

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
