"""One training loop for all models of the course."""

import contextlib
import inspect
import math
import numbers
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn

from labutils.rules import check_counts

_FINITE_CHECK_EVERY = 50  # iterations between looks at the loss; each look makes a GPU wait
_GENERATORS = (
    threading.RLock()
)  # torch's global generators belong to all threads: one run at a time draws from them


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
        Norm of each iteration's gradient before clipping, over the optimizer's parameters; empty if the run did
        not clip.
    evaluations : list of dict
        One for each evaluation: ``iteration``, ``train_loss`` (mean over the batches since the last
        evaluation), ``test_loss``, ``accuracy`` (fraction of the test set), ``seconds`` since the start; the two
        of the test set as `evaluate` gives them.
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
    respect to the images, and evaluation builds no graph. On the CPU of one machine, the same model, optimizer,
    data and seed give the same numbers bit for bit, whatever else runs beside. That holds with dropout, too:
    torch's global generators start from the seed, and are put back when the run ends. (On a GPU, torch itself
    does not promise it.)

    Parameters
    ----------
    model : torch.nn.Module
        Maps a batch of inputs to class scores of shape (batch, classes). Trained in place.
    optimizer : torch.optim.Optimizer
        Any of torch's, made with parameters of `model` (or of `criterion`). One that needs a closure, as LBFGS,
        gets one, and may compute the loss of its batch several times an update.
    train, test : pair of torch.Tensor or array-like
        Inputs (n, ...) and integer class labels (n,). Inputs that are floating-point numbers are converted to the
        precision of the model's parameters. Samples whose label the criterion ignores (its ``ignore_index``, or
        -100) are left out.
    n_iters : int
        Number of parameter updates.
    batch_size : int
        Samples per update. Each pass through the data is shuffled anew; its last batch may be smaller.
    eval_every : int
        Evaluate after every this many updates, and after the last.
    criterion : callable, optional
        ``criterion(scores, labels)`` gives the mean loss; cross-entropy (softmax included) if not given.
    clip_norm : float, optional
        Rescale the gradient of the optimizer's parameters to this norm wherever it is larger (Pascanu, Mikolov
        and Bengio 2013). Not given, gradients are left alone; ``float("inf")`` only records their norms.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        Made for `optimizer`; stepped after every update, so it cannot be one that wants a metric.
    seed : int
        Seed of the shuffling, and of what the model draws while it is trained. The model's initial weights are
        drawn before, by whoever makes the model.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to compute; see `pick_device`. The model, and a criterion that is a module, are moved there.
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
        If the data is empty, not finite, or its lengths or shapes do not fit each other or the model; if a label is
        no class that the model scores; if the optimizer or the schedule is not made for this model; if the
        criterion gives no single number, a count is not a positive integer, or the device is not there. The
        message names what was wrong and what is allowed; the model is not trained then.
    TypeError
        If the seed is not an integer, or an argument is of a kind that cannot be used: a data loader, labels that
        are not integers, a schedule that wants a metric.
    """
    check_counts(n_iters=n_iters, batch_size=batch_size, eval_every=eval_every)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if clip_norm is not None and not (isinstance(clip_norm, numbers.Real) and clip_norm > 0):
        raise ValueError(f"clip_norm must be a positive number or None, got {clip_norm!r}")
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion
    _check_model(model, criterion)
    _check_optimizer(optimizer, model, criterion)
    if schedule is not None:
        _check_schedule(schedule, optimizer, n_iters)
    device = pick_device(device)
    train, test = (
        _labelled(_as_tensors(part, name), criterion, name)
        for part, name in ((train, "train"), (test, "test"))
    )
    model.to(device).train()
    train, test = ((_on_device(inputs, model), labels.to(device)) for inputs, labels in (train, test))
    if isinstance(criterion, nn.Module):
        criterion.to(device)

    torch.set_num_threads(1)  # the setting belongs to the calling thread; see fit_all
    with contextlib.ExitStack() as alone:
        alone.enter_context(_GENERATORS)
        alone.enter_context(_seeded(seed, device))
        undrawn = _generator_states(device)
        for part, name in ((train, "train"), (test, "test")):
            _try_out(model, criterion, *part, name, batch_size)

        history = History(label)
        update = _updater(model, optimizer, criterion, clip_norm)
        batches = shuffled_batches(len(train[0]), batch_size, torch.Generator().manual_seed(seed))
        losses = torch.full((n_iters,), math.nan, device=device)
        gradient_norms = torch.full((n_iters,), math.nan, device=device)
        evaluated = 0
        start = time.perf_counter()
        for iteration in range(1, n_iters + 1):
            index = next(batches).to(device)
            losses[iteration - 1], gradient_norms[iteration - 1] = update(train[0][index], train[1][index])
            if schedule is not None:
                schedule.step()
            if iteration == 1 and all(map(torch.equal, undrawn, _generator_states(device))):
                alone.close()  # this model draws nothing: the others need not wait

            stopped = stop is not None and stop.is_set()
            evaluating = iteration % eval_every == 0 or iteration == n_iters or stopped
            if evaluating or iteration % _FINITE_CHECK_EVERY == 0:
                infinite = (~torch.isfinite(losses[:iteration])).nonzero()
                if len(infinite):
                    history.diverged_at = int(infinite[0]) + 1
                    evaluating = True
            if evaluating:
                result = _evaluate(model, criterion, *test, "test")
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
    computes on one core: two models on two cores finish sooner than one after the other on both. Models that draw
    random numbers while they are trained (dropout) take turns instead, because torch's generator is one for all
    threads.

    Parameters
    ----------
    runs : dict of str to (torch.nn.Module, torch.optim.Optimizer)
        The models by label; no two of them share parameters.
    train, test : pair of torch.Tensor or array-like
        As for `fit`.
    n_jobs : int
        Models trained at the same time.
    **settings
        Passed to `fit`.

    Returns
    -------
    dict of str to History
        In the order of `runs`.

    Raises
    ------
    ValueError, TypeError
        As `fit`, or if two of the models share parameters.
    """
    check_counts(n_jobs=n_jobs)
    _check_unshared(runs)
    train, test = _as_tensors(train, "train"), _as_tensors(test, "test")  # once for all
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


def evaluate(model, inputs, labels, *, criterion=None, batch_size=500):
    """Loss, accuracy and predictions of `model`, without building a graph for gradients.

    Parameters
    ----------
    model : torch.nn.Module
        Maps a batch of inputs to class scores of shape (batch, classes).
    inputs : torch.Tensor or array-like, shape (n, ...)
        Converted to the precision of the model's parameters, if they are floating-point numbers.
    labels : torch.Tensor or array-like, shape (n,)
        Integer classes. Samples whose label the criterion ignores (its ``ignore_index``, or -100) count neither in
        the loss nor in the accuracy.
    criterion : callable, optional
        Mean loss of scores and labels; cross-entropy if not given. A criterion that is a module is moved to the
        model's device.
    batch_size : int
        Samples that are sent through the model at a time. The criterion is applied once, to the scores of all
        samples, so that the loss does not depend on it.

    Returns
    -------
    Evaluation
        Its predictions, one for each input, lie on the CPU.

    Raises
    ------
    ValueError
        If there are no samples, not as many labels as inputs, or they are not finite; if a label is no class that
        the model scores, or the criterion gives no single number.
    TypeError
        If the data is no tensor or array of numbers, or the labels are not integers.
    """
    check_counts(batch_size=batch_size)
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion
    _check_model(model, criterion)
    name = "the data set"
    inputs, labels = _as_tensors((inputs, labels), name)
    _labelled((inputs, labels), criterion, name)  # refuses a set without a single label that counts
    if isinstance(criterion, nn.Module):
        criterion.to(_device_of(model, inputs))
    return _evaluate(model, criterion, inputs, labels, name, batch_size)


def _evaluate(model, criterion, inputs, labels, name, batch_size=500):
    scores = _all_scores(model, inputs, batch_size)
    labels = labels.to(scores.device)
    counted = labels != _ignored_label(criterion)
    _check_classes(labels[counted], scores.shape[1], name)
    with torch.no_grad():
        loss = _loss(criterion, scores[counted], labels[counted]).item()
    predictions = scores.argmax(dim=1)
    accuracy = (predictions == labels)[counted].sum().item() / int(counted.sum())
    return Evaluation(loss, accuracy, predictions.cpu())


@torch.no_grad()  # not inference_mode: what a model keeps of it could be neither edited nor used in training
def _all_scores(model, inputs, batch_size):
    """The model's scores of all inputs, computed a batch at a time in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        return torch.cat([_scores(model, _on_device(x, model)) for x in inputs.split(batch_size)])
    finally:
        model.train(was_training)


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


@contextlib.contextmanager
def _seeded(seed, device):
    """Torch's global generators, of the CPU and of `device`, start from the seed, and are put back at the end."""
    modules = [torch, *_accelerator(device)]
    states = _generator_states(device)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of all devices
    for module in modules[1:]:
        module.manual_seed(seed)
    try:
        yield
    finally:
        for module, state in zip(modules, states, strict=True):
            module.set_rng_state(state)


def _generator_states(device):
    return [module.get_rng_state() for module in (torch, *_accelerator(device))]


def _accelerator(device):
    return [{"cuda": torch.cuda, "mps": torch.mps}[device.type]] if device.type != "cpu" else []


def _updater(model, optimizer, criterion, clip_norm):
    """A function that updates the parameters by one batch, and gives the loss and the gradient's norm before it."""
    parameters = _parameters_of(optimizer)
    needs_closure = bool(_required(optimizer.step))

    def update(inputs, labels):
        seen = []  # an optimizer with a closure may look several times

        def closure():
            optimizer.zero_grad()
            loss = _loss(criterion, _scores(model, inputs), labels)
            if not loss.requires_grad:
                raise ValueError(
                    "the loss must depend on the model's parameters by operations that have a gradient"
                )
            loss.backward()
            norm = math.nan if clip_norm is None else nn.utils.clip_grad_norm_(parameters, clip_norm)
            seen.append((loss.detach(), norm))
            return loss

        if needs_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        return seen[0]

    return update


def _scores(model, inputs):
    """What the model says of a batch of inputs, checked."""
    scores = model(inputs)
    if not isinstance(scores, torch.Tensor):
        raise TypeError(f"the model must give a tensor of class scores, got {_kind(scores)}")
    if scores.ndim != 2 or len(scores) != len(inputs):
        raise ValueError(
            f"the model must give scores of the shape (batch, classes), here ({len(inputs)}, classes), got "
            f"{tuple(scores.shape)}"
        )
    return scores


def _loss(criterion, scores, labels):
    loss = criterion(scores, labels)
    if not isinstance(loss, torch.Tensor) or loss.ndim != 0:
        got = f"the shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _kind(loss)
        raise ValueError(
            f"criterion must give one number, the mean loss, as a tensor without dimensions, got {got}"
        )
    return loss


def _try_out(model, criterion, inputs, labels, name, batch_size):
    """Refuse data that the model or the criterion cannot use, before anything is trained."""
    inputs, some = inputs[:batch_size], labels[:batch_size]
    try:
        scores = _all_scores(model, inputs, batch_size)
        _check_classes(labels, scores.shape[1], name)
        with torch.no_grad():
            _loss(criterion, scores, some)
    except RuntimeError as error:  # torch's own, as for shapes that do not fit each other
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model and criterion must be able to use {name}, here a batch of shape {tuple(inputs.shape)} and type "
            f"{_precision(inputs)}: {reason}"
        ) from error


def _as_tensors(pair, name):
    """A pair of inputs and labels as tensors, checked for what must hold for any model."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        got = f"{len(pair)} things" if isinstance(pair, tuple | list) else _kind(pair)
        raise TypeError(
            f"{name} must be a pair of tensors or arrays, all inputs and all labels, got {got}; "
            "of a TensorDataset pass its .tensors, of a DataLoader those of its .dataset"
        )
    inputs, labels = _tensor(pair[0], f"the inputs of {name}"), _tensor(pair[1], f"the labels of {name}")
    if inputs.ndim == 0 or labels.ndim == 0:
        raise ValueError(
            f"{name} needs inputs of shape (n, ...) and labels of shape (n,), got a single number"
        )
    if len(inputs) != len(labels) or len(inputs) == 0:
        raise ValueError(
            f"{name} needs as many labels as inputs, and at least one; "
            f"got {len(inputs)} inputs and {len(labels)} labels"
        )
    if labels.ndim != 1:
        hint = (
            "labels.flatten()"
            if labels.numel() == len(labels)
            else "labels.argmax(dim=1), if they are one-hot,"
        )
        raise ValueError(
            f"the labels of {name} must have the shape (n,), a class each, got {tuple(labels.shape)}; {hint} has it"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"the labels of {name} must be integers, the numbers of classes, got {_precision(labels)}"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError(f"the inputs of {name} must be finite; they contain nan or infinity")
    return inputs, labels.long()


def _tensor(values, what):
    if isinstance(values, torch.Tensor):
        return values.detach()
    try:
        array = np.array(values, order="C")  # a copy, as torch shares memory and takes no negative strides
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a tensor or an array of numbers, got {_kind(values)}") from None


def _labelled(pair, criterion, name):
    """The samples whose label the criterion does not ignore."""
    inputs, labels = pair
    ignored = _ignored_label(criterion)
    counted = labels != ignored
    if counted.all():
        return pair
    if not counted.any():
        raise ValueError(f"{name} needs a label that counts; all are {ignored}, which the criterion ignores")
    return inputs[counted.to(inputs.device)], labels[counted]


def _ignored_label(criterion):
    keywords = getattr(criterion, "keywords", {})  # of a functools.partial
    return getattr(criterion, "ignore_index", keywords.get("ignore_index", -100))  # -100 is torch's own


def _check_classes(labels, n_classes, name):
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= n_classes:
        raise ValueError(
            f"the labels of {name} must be from 0 to {n_classes - 1}, as the model scores {n_classes} classes, got "
            f"{lowest if lowest < 0 else highest}"
        )


def _check_model(model, criterion):
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {_kind(model)}")
    if isinstance(criterion, type) or not callable(criterion):
        raise TypeError(
            f"criterion must be a function, or a module such as nn.CrossEntropyLoss(), got {_kind(criterion)}"
        )


def _check_optimizer(optimizer, model, criterion):
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be one of torch.optim, made with model.parameters(), got {_kind(optimizer)}"
        )
    own = {
        id(p) for module in (model, criterion) if isinstance(module, nn.Module) for p in module.parameters()
    }
    parameters = _parameters_of(optimizer)
    foreign = sum(id(p) not in own for p in parameters)
    if foreign:
        raise ValueError(
            f"optimizer must be made with parameters of this model: {foreign} of its {len(parameters)} are not the model's"
        )
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            "optimizer must hold a parameter that requires a gradient; there is nothing to train"
        )


def _check_schedule(schedule, optimizer, n_iters):
    if not callable(getattr(schedule, "step", None)) or _required(schedule.step):
        raise TypeError(
            f"schedule must be one that is stepped after every update, without a metric, such as OneCycleLR, got "
            f"{_kind(schedule)}"
        )
    if getattr(schedule, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "schedule must be made for the optimizer that it is given with; it is made for another"
        )
    total = getattr(schedule, "total_steps", None)
    if total is not None and schedule.last_epoch + n_iters > total:
        raise ValueError(
            f"schedule must last for n_iters={n_iters} updates; it has {total - schedule.last_epoch} left"
        )


def _check_unshared(runs):
    owners = {}
    for label, (model, _) in runs.items():
        for parameter in model.parameters():
            if owners.setdefault(id(parameter), label) != label:
                raise ValueError(
                    f"each run must have a model of its own; {owners[id(parameter)]!r} and {label!r} share parameters"
                )


def _parameters_of(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _required(function):
    """Names of the arguments that a function cannot do without."""
    parameters = inspect.signature(function).parameters.values()
    return [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _device_of(model, inputs):
    """Device of the model's first parameter; of the inputs, if it has none."""
    return next(model.parameters(), inputs).device


def _on_device(inputs, model):
    """Inputs where the model is and, if they are floating-point numbers, in the precision of its parameters."""
    precisions = (p.dtype for p in model.parameters() if p.is_floating_point())
    precision = next(precisions, inputs.dtype) if inputs.is_floating_point() else inputs.dtype
    return inputs.to(_device_of(model, inputs), precision)


def _kind(value):
    """What a value is, for a message: a class by its name, anything else by that of its class."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _precision(tensor):
    return str(tensor.dtype).removeprefix("torch.")


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
