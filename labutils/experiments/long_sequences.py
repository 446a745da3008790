"""Networks that must remember: two tasks of growing length, and digits read pixel by pixel."""

import contextlib
import functools
import io
import itertools
import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from labutils import data, recurrent, training
from labutils.experiments.runs import RESULTS, Run, read_table, runs_of
from labutils.rules import check_counts, check_name

HIDDEN_DIM, BATCH_SIZE = 64, 32
N_LETTERS, N_TO_COPY = 4, 2  # the copy task: letters that there are, and letters of each sequence
SOLVED = {"adding": 1 / 60, "copy": 0.05}  # a tenth of the error of the mean; 95 % of the letters right
BASELINE = {"adding": 1 / 6, "copy": 1 - 1 / N_LETTERS}  # error of the best answer that needs no memory
NETWORKS = (
    "tanh",
    "tanh, orthogonal",
    "IRNN",
    "LSTM",
    "LSTM, forget bias 1",
    "LSTM, forget bias 3",
    "GRU",
)
OTHER_NETWORKS = ("ReLU", "tanh, gain 2", "LSTM, forget bias 5")  # looked at untrained only
SEARCH_STEPS = 50
_LENGTHS = {"adding": (25, 50, 100, 200), "copy": (25, 50, 100)}
_RATES, _SEARCH_SEEDS = (0.001, 0.003, 0.01), (100,)
_EVAL_EVERY, _N_TEST, _N_PROBE = 50, 256, 32
_PIXEL_BATCH, _PIXEL_RATES, _N_VALIDATION = 100, (0.001, 0.003, 0.01), 10_000


def make_network(name, input_dim, output_dim, hidden_dim=HIDDEN_DIM):
    """A network of one layer, its weights drawn from torch's global generator.

    Parameters
    ----------
    name : str
        One of `NETWORKS` or `OTHER_NETWORKS`. "tanh", "ReLU", "LSTM" and "GRU" start as PyTorch makes them (a forget
        bias near 0); "IRNN" is that of Le, Jaitly and Hinton (2015); "gain 2" has independent Gaussian recurrent
        weights of twice the standard deviation that keeps a length, 1 / sqrt(hidden_dim).
    input_dim, output_dim, hidden_dim : int

    Returns
    -------
    torch.nn.Module
        A model of `labutils.recurrent`; its children are the recurrent layer and the readout.

    Raises
    ------
    ValueError
        If the name is none of these, or a dimension is not a positive integer.
    """
    check_name(name, NETWORKS + OTHER_NETWORKS, "network")
    sizes = input_dim, hidden_dim, 1, output_dim
    kind, _, start = name.partition(", ")
    if kind == "GRU":
        return recurrent.GRUModel(*sizes)
    if kind == "LSTM":
        model = recurrent.LSTMModel(*sizes)
        bias = start.removeprefix("forget bias ")
        return recurrent.set_forget_bias(model, float(bias)) if bias else model
    model = recurrent.RNNModel(*sizes, "tanh" if kind == "tanh" else "relu")
    if kind == "IRNN":
        recurrent.set_recurrent_weights(model, "identity")
    elif start == "orthogonal":
        recurrent.set_recurrent_weights(model, "orthogonal")
    elif start == "gain 2":
        recurrent.set_recurrent_weights(model, "gaussian", gain=2.0)
    return model


def adding_problem(n, steps, generator):
    """Sequences of values and marks; the sum of the two marked values is asked for after the last step.

    Parameters
    ----------
    n : int
        Sequences.
    steps : int
        At least 2; one mark stands in each half.
    generator : torch.Generator

    Returns
    -------
    x : torch.Tensor of shape (n, steps, 2)
    y : torch.Tensor of shape (n, 1)

    Raises
    ------
    ValueError
        If a count is too small.

    References
    ----------
    Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9:1735, 1997, experiment 4.
    """
    check_counts(n=n)
    check_counts(steps=steps, at_least=2)
    x = torch.zeros(n, steps, 2)
    x[:, :, 0] = torch.rand(n, steps, generator=generator)
    rows = torch.arange(n)
    x[rows, torch.randint(steps // 2, (n,), generator=generator), 1] = 1
    x[rows, torch.randint(steps // 2, steps, (n,), generator=generator), 1] = 1
    return x, x.prod(dim=2).sum(dim=1, keepdim=True)


def copy_task(n, steps, generator):
    """Sequences that begin with letters, which are asked for again, in order, during the last steps.

    Parameters
    ----------
    n : int
        Sequences.
    steps : int
        At least 2 * `N_TO_COPY`. Between the letters and the sign that asks for them lie blanks.
    generator : torch.Generator

    Returns
    -------
    x : torch.Tensor of shape (n, steps, N_LETTERS + 2)
        One-hot: a letter, the blank or the sign.
    y : torch.Tensor of shape (n, N_TO_COPY)
        The letters, as integers; the answers belong to the last `N_TO_COPY` steps.

    Raises
    ------
    ValueError
        If a count is too small.

    References
    ----------
    Hochreiter and Schmidhuber 1997; with one-hot letters Arjovsky, Shah and Bengio, "Unitary evolution recurrent neural
    networks", ICML 2016, section 4.1 (ten letters out of eight).
    """
    check_counts(n=n)
    check_counts(steps=steps, at_least=2 * N_TO_COPY)
    y = torch.randint(N_LETTERS, (n, N_TO_COPY), generator=generator)
    symbols = torch.full((n, steps), N_LETTERS)
    symbols[:, :N_TO_COPY] = y
    symbols[:, -N_TO_COPY] = N_LETTERS + 1
    return nn.functional.one_hot(symbols, N_LETTERS + 2).float(), y


TASKS = {"adding": adding_problem, "copy": copy_task}


def arriving_gradient(layer, x, v, lag):
    """Length of the gradient of v . h_T with respect to the state `lag` steps before the last.

    Parameters
    ----------
    layer : torch.nn.RNN, torch.nn.LSTM or torch.nn.GRU
        One layer, with ``batch_first=True``.
    x : torch.Tensor of shape (batch, T, features)
    v : torch.Tensor of shape (batch, hidden)
    lag : int
        From 1 to T - 1.

    Returns
    -------
    float
        Mean over the batch. The state of an LSTM is h and c together.
    """
    before = x.shape[1] - lag
    with torch.no_grad():
        _, state = layer(x[:, :before])
    parts = [part.clone().requires_grad_() for part in (state if isinstance(state, tuple) else (state,))]
    states, _ = layer(x[:, before:], tuple(parts) if len(parts) == 2 else parts[0])
    gradients = torch.autograd.grad((v * states[:, -1]).sum(), parts)
    return sum(g.square().sum(dim=(0, 2)) for g in gradients).sqrt().mean().item()


@dataclass(frozen=True)
class MemoryRun(Run):
    """Settings of one network that learns a task with a memory; it stops as soon as the task is solved (`SOLVED`).

    Attributes
    ----------
    task : {"adding", "copy"}
    model : str
        One of `NETWORKS`, with `HIDDEN_DIM` units.
    steps : int
        Length of the sequences.
    learning_rate : float
        Of Adam. Gradients longer than 1 are clipped.
    seed : int
        Of the weights, of the sequences, fresh for each update, and of those that the error is measured on.
    n_iters : int
        Updates at most, each with `BATCH_SIZE` sequences.
    """

    task: str
    model: str
    steps: int
    learning_rate: float
    seed: int
    n_iters: int = 1200

    WORDS: ClassVar = {"task": TASKS, "model": NETWORKS}

    def measure(self, device="auto"):
        """Train the run.

        Returns
        -------
        dict
            ``error`` at the end, on sequences of its own: the mean squared error of the adding problem, the share of
            wrong letters of the copy task; ``updates`` until it was solved, None if it never was; ``gradient``, the
            part of a gradient of length 1 at the last step that arrives at the first before training, and
            ``gradient_middle``, at the lag of half the steps; ``early_loss``, the mean loss of the first 50
            updates; ``diverged_at``, where the loss was not finite; ``seconds``, the wall time.
        """
        start = time.perf_counter()
        _, history = train(self, device)
        early = history.losses[:_EVAL_EVERY]
        return {
            "error": history.error,
            "updates": history.updates,
            **self._gradients(),
            "early_loss": sum(early) / len(early),
            "diverged_at": history.diverged_at,
            "seconds": round(time.perf_counter() - start, 2),
        }

    def work(self):
        cost = {"LSTM": 1.3, "GRU": 3}.get(self.model.partition(",")[0], 1)
        return self.n_iters * self.steps * cost

    def make_model(self):
        """The untrained network, its weights drawn from the run's seed."""
        torch.manual_seed(self.seed)
        sizes = {"adding": (2, 1), "copy": (N_LETTERS + 2, N_LETTERS)}
        return make_network(self.model, *sizes[self.task])

    def answers(self, model, x):
        """What a model answers: at the last step, in the copy task at the last `N_TO_COPY` steps."""
        if self.task == "adding":
            return model(x)
        layer, readout = model.children()
        return readout(layer(x)[0][:, -N_TO_COPY:])

    def _gradients(self):
        layer = next(self.make_model().children()).double()  # float32 has no numbers below 1e-45
        generator = torch.Generator().manual_seed(self.seed)
        x, _ = TASKS[self.task](_N_PROBE, self.steps, generator)
        v = torch.randn(_N_PROBE, HIDDEN_DIM, generator=generator, dtype=torch.float64)
        v = nn.functional.normalize(v, dim=1)
        lags = {"gradient": self.steps - 1, "gradient_middle": self.steps // 2}
        return {name: arriving_gradient(layer, x.double(), v, lag) for name, lag in lags.items()}


@dataclass
class MemoryHistory:
    """What happened during a `MemoryRun`.

    Attributes
    ----------
    losses : list of float
        Loss of each update's sequences, before it; they are new to the network.
    error : float
        The last one that was measured on the sequences kept for that.
    updates : int or None
        Updates until the task was solved; None if it was not.
    diverged_at : int or None
        The update whose loss was not finite; the run ended there.
    """

    losses: list
    error: float = math.nan
    updates: int | None = None
    diverged_at: int | None = None


def train(run, device="auto"):
    """Train one run, until its task is solved.

    Parameters
    ----------
    run : MemoryRun
    device : str
        As for `training.pick_device`.

    Returns
    -------
    torch.nn.Module, MemoryHistory
    """
    torch.set_num_threads(1)
    device = training.pick_device(device)
    make, generator = TASKS[run.task], torch.Generator().manual_seed(run.seed)
    unseen = make(_N_TEST, run.steps, torch.Generator().manual_seed(run.seed + 1_000_000))
    unseen = tuple(part.to(device) for part in unseen)
    model = run.make_model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate)
    history = MemoryHistory([])
    for iteration in range(1, run.n_iters + 1):
        x, y = (part.to(device) for part in make(BATCH_SIZE, run.steps, generator))
        optimizer.zero_grad()
        loss = _loss(run, run.answers(model, x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.losses.append(loss.item())
        if not math.isfinite(history.losses[-1]):
            history.diverged_at = iteration
            break
        if iteration % _EVAL_EVERY == 0 or iteration == run.n_iters:
            history.error = _error(run, model, *unseen)
            if history.error < SOLVED[run.task]:
                history.updates = iteration
                break
    return model, history


def _loss(run, answers, y):
    if run.task == "adding":
        return nn.functional.mse_loss(answers, y)
    return nn.functional.cross_entropy(answers.flatten(0, 1), y.flatten())


@torch.no_grad()
def _error(run, model, x, y):
    answers = run.answers(model, x)
    if run.task == "adding":
        return (answers - y).square().mean().item()
    return (answers.argmax(dim=2) != y).float().mean().item()


def memory_search():
    """Each network at three learning rates, on both tasks at one length, with seeds that the table does not use."""
    grid = itertools.product(TASKS, NETWORKS, _RATES, _SEARCH_SEEDS)
    return [MemoryRun(task, model, SEARCH_STEPS, rate, seed) for task, model, rate, seed in grid]


def memory(seeds=range(5), search=RESULTS / "memory_search.csv"):
    """Each network on both tasks at several lengths, with the learning rate that was best in the search.

    The best one solves the task with the fewest updates, on average over the seeds of the search; a run that never does
    counts all of its updates, and of two rates that are equal there the one with the smaller error is better.

    Parameters
    ----------
    seeds : iterable of int
    search : path-like
        Table of `memory_search`.

    Returns
    -------
    list of MemoryRun

    Raises
    ------
    ValueError
        If the table lacks runs of the search.
    """
    frame = _whole_search(memory_search(), search)
    frame["updates"] = frame["updates"].fillna(frame["n_iters"])
    frame["error"] = frame["error"].fillna(math.inf)
    best = _best(frame, ["task", "model"], ["updates", "error"])
    return [
        MemoryRun(task, model, steps, best[task, model], seed)
        for task, lengths in _LENGTHS.items()
        for model, steps, seed in itertools.product(NETWORKS, lengths, seeds)
    ]


@dataclass(frozen=True)
class PixelRun(Run):
    """Settings of one network that reads digits pixel by pixel.

    Attributes
    ----------
    model : str
        One of `NETWORKS`, with `HIDDEN_DIM` units.
    order : {"in order", "permuted"}
        The order of the pixels: row by row, or one random order, the same in all runs.
    learning_rate : float
        The largest one: it rises over the first fifth of the run and then falls (torch's OneCycleLR, Adam).
        Gradients longer than 1 are clipped.
    seed : int
        Of the weights and of the shuffling.
    n_iters : int
        Updates, each with 100 images.
    side : int
        Pixels per side; a divisor of 28. The images are shrunk by averaging.
    validation : bool
        Whether to train without the last 10,000 training images and to test on those.
    dataset : str
        As for `data.mnist`.
    """

    model: str
    order: str
    learning_rate: float
    seed: int
    n_iters: int = 600
    side: int = 14
    validation: bool = False
    dataset: str = "mnist"

    WORDS: ClassVar = {"model": NETWORKS, "order": ("in order", "permuted")}

    def measure(self, device="auto"):
        """Train the run.

        Returns
        -------
        dict
            ``accuracy`` at the end, ``accuracy_120`` and so on, five during the run; ``early_loss``, the mean loss of
            the first 50 updates; ``diverged_at``; ``seconds``, the wall time.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # each process would say where the data came from
            images = _images(self.dataset)
        train, test = images.train, images.test
        if self.validation:
            test = tuple(part[-_N_VALIDATION:] for part in train)
            train = tuple(part[:-_N_VALIDATION] for part in train)
        torch.manual_seed(self.seed)
        model = make_network(self.model, 1, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, self.n_iters, pct_start=0.2
        )
        history = training.fit(
            model,
            optimizer,
            self.sequences(train),
            self.sequences(test),
            n_iters=self.n_iters,
            batch_size=_PIXEL_BATCH,
            eval_every=max(1, self.n_iters // 5),
            clip_norm=1.0,
            schedule=schedule,
            seed=self.seed,
            device=device,
            verbose=False,
        )
        early = history.losses[:_EVAL_EVERY]
        return {
            "accuracy": history.accuracy,
            **{f"accuracy_{row['iteration']}": row["accuracy"] for row in history.evaluations},
            "early_loss": sum(early) / len(early),
            "diverged_at": history.diverged_at,
            "seconds": round(history.seconds, 2),
        }

    def work(self):
        return self.n_iters * {"LSTM": 3, "GRU": 3}.get(self.model.partition(",")[0], 1)

    def sequences(self, part):
        """Images (n, 28, 28) with labels, as sequences (n, side * side, 1) with labels."""
        images, labels = part
        pixels = nn.functional.avg_pool2d(images[:, None], 28 // self.side).flatten(1)
        if self.order == "permuted":
            pixels = pixels[:, torch.randperm(self.side**2, generator=torch.Generator().manual_seed(0))]
        return pixels[:, :, None], labels


_PIXEL_NETWORKS = ("tanh", "IRNN", "LSTM, forget bias 1", "GRU")


def pixels_search():
    """Each network that reads pixels at three learning rates, for a shorter time, tested on held-out training images."""
    grid = itertools.product(_PIXEL_NETWORKS, _PIXEL_RATES)
    return [PixelRun(model, "in order", rate, seed=100, n_iters=300, validation=True) for model, rate in grid]


def pixels(seeds=range(3), search=RESULTS / "pixels_search.csv"):
    """Four networks that read pixels, in order and permuted, each at the learning rate that was best in the search.

    Parameters
    ----------
    seeds : iterable of int
    search : path-like
        Table of `pixels_search`.

    Returns
    -------
    list of PixelRun

    Raises
    ------
    ValueError
        If the table lacks runs of the search.
    """
    frame = _whole_search(pixels_search(), search)
    best = _best(frame.assign(wrong=1 - frame["accuracy"]), ["model"], ["wrong"])
    return [
        PixelRun(model, order, best[model,], seed)
        for model, order, seed in itertools.product(_PIXEL_NETWORKS, ("in order", "permuted"), seeds)
    ]


@functools.cache
def _images(dataset):
    return data.mnist(dataset, allow_subset=False)


def _whole_search(declared, table):
    """The rows of a table that hold the declared runs of a search; refused if one is missing."""
    frame = read_table(table)
    frame = frame[[run in set(declared) for run in runs_of(frame, type(declared[0]))]]
    if len(frame) < len(declared):
        missing = f"{len(declared) - len(frame)} of {len(declared)} runs"
        raise ValueError(f"{table} lacks {missing}; train that search first")
    return frame.copy()


def _best(frame, settings, scores):
    """The learning rate with the smallest mean score, by the values of the other settings."""
    means = frame.groupby([*settings, "learning_rate"], as_index=False)[scores].mean()
    best = means.sort_values([*scores, "learning_rate"]).drop_duplicates(settings)
    return dict(zip(best[settings].itertuples(index=False, name=None), best["learning_rate"], strict=True))
