"""One training loop for all models of the course."""

import math
import numbers
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

_FINITE_CHECK_EVERY = 50  # iterations between looks at the loss; each look makes a GPU wait


@dataclass
class History:
    """What happened during a training run.

    Attributes
    ----------
    label : str
        Name of the run in printed lines, legends and tables.
    losses : list of float
        Loss of each iteration's batch, before the parameters are updated; one entry an iteration.
    gradient_norms : list of float
        Norm of each iteration's gradient before clipping; empty if the run did not clip.
    evaluations : list of dict
        One for each evaluation: ``iteration``, ``train_loss`` (mean over the batches since the last
        evaluation), ``test_loss``, ``accuracy`` (fraction of the test set), ``seconds`` since the start.
    diverged_at : int or None
        The first iteration whose loss, or whose update's test loss, was no longer finite; the run ended there.
    """

    label: str = "model"
    losses: list = field(default_factory=list)
    gradient_norms: list = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    diverged_at: int | None = None

    @property
    def accuracy(self):
        """Test accuracy at the last evaluation, from 0 to 1."""
        return self.evaluations[-1]["accuracy"]

    @property
    def seconds(self):
        """Wall time of the run, evaluations included."""
        return self.evaluations[-1]["seconds"]

    def to_frame(self):
        """The evaluations as a pandas frame, one row an evaluation."""
        return pd.DataFrame(self.evaluations)

    def plot(self, ax, quantity="accuracy", **style):
        """Draw one column of `to_frame` against the iteration.

        Parameters
        ----------
        ax : matplotlib.axes.Axes
        quantity : {"accuracy", "train_loss", "test_loss"}
        **style
            Passed to ``ax.plot``.

        Returns
        -------
        matplotlib.axes.Axes
        """
        frame = self.to_frame()
        ax.plot(frame["iteration"], frame[quantity], **{"label": self.label, **style})
        ax.set(xlabel="iteration", ylabel=quantity.replace("_", " "))
        return ax


def fit(
    model,
    optimizer,
    train,
    test,
    *,
    n_iters=3000,
    batch_size=100,
    eval_every=500,
    criterion=None,
    clip_norm=None,
    schedule=None,
    seed=0,
    device="auto",
    label="model",
    verbose=True,
    stop=None,
):
    """Train `model` by minibatches, evaluating it as it goes.

    The data is moved to the device once; a batch is an index operation there. No gradient is taken with
    respect to the images, and evaluation runs in inference mode. On one machine, the same model, optimizer,
    data and seed give the same numbers bit for bit, whatever else runs beside.

    Parameters
    ----------
    model : torch.nn.Module
        Maps a batch of inputs to class scores of shape (batch, classes). Trained in place.
    optimizer : torch.optim.Optimizer
        Any of torch's, made with ``model.parameters()``.
    train, test : pair of torch.Tensor
        Inputs (n, ...) and integer class labels (n,).
    n_iters : int
        Number of parameter updates.
    batch_size : int
        Samples per update. Each pass through the data is shuffled anew; its last batch may be smaller.
    eval_every : int
        Evaluate after every this many updates, and after the last.
    criterion : callable, optional
        ``criterion(scores, labels)`` gives the mean loss; cross-entropy (softmax included) if not given.
    clip_norm : float, optional
        Rescale the gradient to this norm wherever it is larger (Pascanu, Mikolov and Bengio 2013).
        Not given, gradients are left alone; ``float("inf")`` only records their norms.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        Made for `optimizer`; stepped after every update.
    seed : int
        Seed of the shuffling. The model's initial weights are drawn before, by whoever makes the model.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to compute; see `pick_device`.
    label : str
        Name of the run in its printed lines.
    verbose : bool
        Print a line at each evaluation.
    stop : threading.Event, optional
        Setting it ends the run after the current iteration.

    Returns
    -------
    History
        A loss that is no longer finite ends the run early and is kept as a result: see
        `History.diverged_at`.

    Raises
    ------
    ValueError
        If the data is empty or its lengths differ, a count is not a positive integer, or the device is not
        there; the message names the value and what is allowed.
    TypeError
        If the seed is not an integer.
    """
    check_counts(n_iters=n_iters, batch_size=batch_size, eval_every=eval_every)
    if not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if clip_norm is not None and not (isinstance(clip_norm, numbers.Real) and clip_norm > 0):
        raise ValueError(f"clip_norm must be a positive number or None, got {clip_norm!r}")
    device = pick_device(device)
    train, test = _on_device(train, device, "train"), _on_device(test, device, "test")
    criterion = criterion or nn.CrossEntropyLoss()
    model.to(device).train()

    torch.set_num_threads(1)  # the setting belongs to the calling thread; see fit_all
    history = History(label)
    batches = shuffled_batches(len(train[0]), batch_size, torch.Generator().manual_seed(seed))
    losses = torch.full((n_iters,), math.nan, device=device)
    gradient_norms = torch.full((n_iters,), math.nan, device=device)
    evaluated = 0
    start = time.perf_counter()
    for iteration in range(1, n_iters + 1):
        index = next(batches).to(device)
        optimizer.zero_grad()
        loss = criterion(model(train[0][index]), train[1][index])
        loss.backward()
        if clip_norm is not None:
            gradient_norms[iteration - 1] = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses[iteration - 1] = loss.detach()

        stopped = stop is not None and stop.is_set()
        evaluating = iteration % eval_every == 0 or iteration == n_iters or stopped
        if evaluating or iteration % _FINITE_CHECK_EVERY == 0:
            infinite = (~torch.isfinite(losses[:iteration])).nonzero()
            if len(infinite):
                history.diverged_at = int(infinite[0]) + 1
                evaluating = True
        if evaluating:
            result = evaluate(model, *test, criterion=criterion)
            if history.diverged_at is None and not math.isfinite(result.loss):
                history.diverged_at = iteration  # the last update itself did it
            history.evaluations.append(
                {
                    "iteration": iteration,
                    "train_loss": losses[evaluated:iteration].mean().item(),
                    "test_loss": result.loss,
                    "accuracy": result.accuracy,
                    "seconds": time.perf_counter() - start,
                }
            )
            evaluated = iteration
            if verbose:
                # one write a line: runs side by side print at the same time
                print(_line(history) + "\n", end="", flush=True)
        if stopped or history.diverged_at:
            break
    history.losses = losses[: history.diverged_at or iteration].tolist()
    history.gradient_norms = [] if clip_norm is None else gradient_norms[: len(history.losses)].tolist()
    return history


def fit_all(runs, train, test, *, n_jobs=2, **settings):
    """Train several models side by side, each as `fit` would alone.

    The runs share the data and take a thread each, `n_jobs` at a time, largest model first. A thread
    computes on one core: two models on two cores finish sooner than one after the other on both.

    Parameters
    ----------
    runs : dict of str to (torch.nn.Module, torch.optim.Optimizer)
        The models by label.
    train, test : pair of torch.Tensor
    n_jobs : int
        Models trained at the same time.
    **settings
        Passed to `fit`.

    Returns
    -------
    dict of str to History
        In the order of `runs`.
    """
    check_counts(n_jobs=n_jobs)
    sizes = {label: sum(p.numel() for p in model.parameters()) for label, (model, _) in runs.items()}
    stop = threading.Event()
    with ThreadPoolExecutor(n_jobs) as pool:
        futures = {
            label: pool.submit(fit, *runs[label], train, test, label=label, stop=stop, **settings)
            for label in sorted(runs, key=sizes.get, reverse=True)
        }
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what went wrong, whichever run it was
            return {label: futures[label].result() for label in runs}
        except BaseException:  # an error or an interrupt in the notebook: end the other runs too
            stop.set()
            for future in futures.values():
                future.cancel()
            raise


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, accuracy (fraction) and predicted classes (n,) of a model on a data set."""

    loss: float
    accuracy: float
    predictions: torch.Tensor


@torch.inference_mode()
def evaluate(model, inputs, labels, *, criterion=None, batch_size=500):
    """Loss, accuracy and predictions of `model`, without building a graph for gradients.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : torch.Tensor, shape (n, ...)
    labels : torch.Tensor, shape (n,)
        Integer classes.
    criterion : callable, optional
        Mean loss of scores and labels; cross-entropy if not given.
    batch_size : int
        Samples that are sent through the model at a time.

    Returns
    -------
    Evaluation
        Its predictions lie on the CPU.

    Raises
    ------
    ValueError
        If there are no samples, or not as many labels as inputs.
    """
    check_counts(batch_size=batch_size)
    _check_pair(inputs, labels, "the data set")
    criterion = criterion or nn.CrossEntropyLoss()
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total_loss, predictions = 0.0, []
    try:
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            scores = model(x.to(device))
            total_loss += criterion(scores, y.to(device)).item() * len(y)
            predictions.append(scores.argmax(dim=1).cpu())
    finally:
        model.train(was_training)
    predictions = torch.cat(predictions)
    accuracy = (predictions == labels.cpu()).sum().item() / len(labels)
    return Evaluation(total_loss / len(labels), accuracy, predictions)


def pick_device(name="auto"):
    """The device to compute on.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}
        ``"auto"`` takes a CUDA GPU where there is one, then Apple's, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is none of these, or this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if name not in available:
        raise ValueError(f"device must be one of auto, cpu, cuda, mps, got {name!r}")
    if not available[name]:
        raise ValueError(f"device {name!r} is not available on this machine; use 'auto' or 'cpu'")
    return torch.device(name)


def shuffled_batches(n_samples, batch_size, generator):
    """Index tensors of minibatches without end: each pass through the samples is shuffled anew."""
    while True:
        yield from torch.randperm(n_samples, generator=generator).split(batch_size)


def _on_device(pair, device, name):
    inputs, labels = pair
    _check_pair(inputs, labels, name)
    return inputs.to(device), labels.to(device)


def _check_pair(inputs, labels, name):
    if len(inputs) != len(labels) or len(inputs) == 0:
        raise ValueError(
            f"{name} needs as many labels as inputs, and at least one; "
            f"got {len(inputs)} inputs and {len(labels)} labels"
        )


def check_counts(**counts):
    """Raise a ValueError that names the first of the values that is not a positive integer."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _line(history):
    last = history.evaluations[-1]
    if history.diverged_at:
        return (
            f"{history.label:<8s} diverged: the loss is not finite since iteration {history.diverged_at}; "
            f"the run ends here with test accuracy {last['accuracy']:.2%}"
        )
    return (
        f"{history.label:<8s} iteration {last['iteration']:5d}  train loss {last['train_loss']:.3f}  "
        f"test loss {last['test_loss']:.3f}  test accuracy {last['accuracy']:6.2%}  {last['seconds']:5.1f} s"
    )
