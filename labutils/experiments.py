"""The runs behind the comparison of recurrent networks: declared once, repeated by one command, kept in tables.

    labutils train six_models

fills ``notebooks/results/six_models.csv``, a row a run (`labutils.course.tables`).
"""

import contextlib
import functools
import io
import itertools
import time
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd
import torch

from labutils import data, lesson, recurrent, training
from labutils.errors import UsageError

RESULTS = Path(__file__).parent.parent / "notebooks" / "results"
MODELS = {  # name in the lab: cell, nonlinearity, layers
    "RNN A": ("RNN", "relu", 1),
    "RNN B": ("RNN", "relu", 2),
    "RNN C": ("RNN", "tanh", 2),
    "LSTM A": ("LSTM", "tanh", 1),
    "LSTM B": ("LSTM", "tanh", 2),
    "LSTM C": ("LSTM", "tanh", 3),
}
EARLY = 300  # iterations whose mean loss is kept, so that a short run can check a row
N_VALIDATION = 10_000  # training images held out where a choice is to be made
_HIDDEN_DIM, _BATCH_SIZE, _EVAL_EVERY = 100, 100, 500


@dataclass(frozen=True)
class Run:
    """Settings of one training run; their defaults are the lab's protocol.

    Attributes
    ----------
    model : str
        One of `MODELS`.
    learning_rate : float
        With ``one_cycle``, the largest one.
    seed : int
        Of the initial weights and of the shuffling.
    clip_norm : float or None
        As for `training.fit`.
    n_iters : int
    optimizer : {"sgd", "adamw"}
    xavier : bool
        Whether the weights from the input start as large as Glorot and Bengio (2010) advise.
    orthogonal : bool
        Whether the recurrent weights start as orthogonal matrices.
    forget_bias : float or None
        As for `recurrent.set_forget_bias`; None leaves PyTorch's.
    one_cycle : bool
        Whether the learning rate rises over the first fifth of the run and then falls (torch's OneCycleLR).
    validation : bool
        Whether to train without the last `N_VALIDATION` training images and to test on those.
    dataset : str
        As for `data.mnist`.
    """

    model: str
    learning_rate: float
    seed: int
    clip_norm: float | None = None
    n_iters: int = 3000
    optimizer: str = "sgd"
    xavier: bool = False
    orthogonal: bool = False
    forget_bias: float | None = None
    one_cycle: bool = False
    validation: bool = False
    dataset: str = "mnist"


def six_models(seeds=range(10)):
    """The six models at two learning rates; at the larger one the RNNs also with clipped gradients."""
    grid = itertools.product(seeds, (0.1, 0.01), MODELS)
    return [
        Run(model, learning_rate, seed, clip_norm)
        for seed, learning_rate, model in grid
        for clip_norm in _thresholds(model, learning_rate)
    ]


def _thresholds(model, learning_rate):
    return (None, 1.0, 10.0) if model.startswith("RNN") and learning_rate == 0.1 else (None,)


def long_runs(seeds=range(3)):
    """Four times as many iterations for the shallowest and the deepest LSTM: does the loss on new images rise?"""
    return [
        Run(model, 0.1, seed, n_iters=12_000)
        for model, seed in itertools.product(("LSTM A", "LSTM C"), seeds)
    ]


RECIPE = Run(
    "LSTM A", 0.01, 0, clip_norm=1.0, optimizer="adamw", xavier=True, forget_bias=1.0, one_cycle=True
)
VARIANTS = {  # the recipe, without one of its ingredients, and with one that is often advised
    "the recipe": {},
    "without Xavier weights": {"xavier": False},
    "without forget bias": {"forget_bias": None},
    "without clipping": {"clip_norm": None},
    "without AdamW": {"optimizer": "sgd"},
    "without one cycle": {"one_cycle": False},
    "with orthogonal weights": {"orthogonal": True},
}
_SEARCH = {  # iterations: learning rates by optimizer, seeds (others than those of the table)
    300: ({"adamw": (0.005, 0.01, 0.02, 0.04), "sgd": (0.1, 0.3, 1.0, 3.0)}, (100, 101, 102)),
    3000: ({"adamw": (0.0025, 0.005, 0.01, 0.02), "sgd": (0.1, 0.3, 1.0, 3.0)}, (100,)),
}


def recipe_search():
    """The recipe and its variants at several learning rates, tested on held-out training images."""
    return [
        replace(RECIPE, **change, n_iters=n_iters, learning_rate=learning_rate, seed=seed, validation=True)
        for n_iters, (learning_rates, seeds) in _SEARCH.items()
        for change in VARIANTS.values()
        for learning_rate in learning_rates[change.get("optimizer", RECIPE.optimizer)]
        for seed in seeds
    ]


def recipe(seeds=range(5), search=RESULTS / "recipe_search.csv"):
    """The recipe and its variants, each at the learning rate that was best on the held-out images.

    Parameters
    ----------
    seeds : iterable of int
    search : path-like
        Table of `recipe_search`.

    Returns
    -------
    list of Run

    Raises
    ------
    ValueError
        If the table lacks runs of the search.
    """
    searched, frame = set(recipe_search()), read_table(search)
    frame = frame[[run in searched for run in runs_of(frame)]]
    if len(frame) < len(searched):
        missing = f"{len(searched) - len(frame)} of {len(searched)} runs"
        raise ValueError(f"{search} lacks {missing}; train the experiment recipe_search first")
    settings = [field.name for field in fields(Run) if field.name not in ("learning_rate", "seed")]
    means = frame.groupby([*settings, "learning_rate"], dropna=False, as_index=False)["accuracy"].mean()
    best = means.sort_values("accuracy").drop_duplicates(settings, keep="last").assign(seed=0)
    return [replace(run, seed=seed, validation=False) for run in runs_of(best) for seed in seeds]


EXPERIMENTS = {function.__name__: function for function in (six_models, long_runs, recipe_search, recipe)}


def make_model(run):
    """The untrained model of a run, its weights drawn from the run's seed."""
    cell, nonlinearity, layer_dim = MODELS[run.model]
    torch.manual_seed(run.seed)
    if cell == "RNN":
        model = recurrent.RNNModel(28, _HIDDEN_DIM, layer_dim, 10, nonlinearity)
    else:
        model = recurrent.LSTMModel(28, _HIDDEN_DIM, layer_dim, 10)
    if run.xavier:
        recurrent.set_input_weights(model)
    if run.orthogonal:
        recurrent.set_recurrent_weights(model, "orthogonal")
    if run.forget_bias is not None:
        recurrent.set_forget_bias(model, run.forget_bias)
    return model


def train(run, *, n_iters=None, device="auto", verbose=False):
    """Train one run.

    Parameters
    ----------
    run : Run
    n_iters : int, optional
        Stop after so many of the run's iterations.
    device : str
        As for `training.pick_device`.
    verbose : bool
        As for `training.fit`.

    Returns
    -------
    torch.nn.Module, training.History
    """
    images = _images(run.dataset)
    train_part, test_part = images.train, images.test
    if run.validation:
        test_part = tuple(part[-N_VALIDATION:] for part in train_part)
        train_part = tuple(part[:-N_VALIDATION] for part in train_part)
    model = make_model(run).to(training.pick_device(device))
    optimizers = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    optimizer = optimizers[run.optimizer](model.parameters(), lr=run.learning_rate)
    schedule = None
    if run.one_cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, run.learning_rate, run.n_iters, pct_start=0.2
        )
    history = training.fit(
        model,
        optimizer,
        train_part,
        test_part,
        n_iters=n_iters or run.n_iters,
        batch_size=_BATCH_SIZE,
        eval_every=_EVAL_EVERY,
        clip_norm=run.clip_norm,
        schedule=schedule,
        seed=run.seed,
        device=device,
        label=run.model,
        verbose=verbose,
    )
    return model, history


@functools.cache
def _images(dataset):
    return data.mnist(dataset, allow_subset=False)


def row(run, device="auto"):
    """Train one run, and give its row of the table: settings, results, provenance.

    Returns
    -------
    dict
        ``accuracy_500``, ``test_loss_500`` and ``train_loss_500`` (mean since the evaluation before) and so on
        hold the evaluations; ``accuracy`` is the last one; ``early_loss`` the mean loss of the first `EARLY`
        iterations; ``seconds`` the wall time, evaluations included, and ``cpu_seconds`` the time that the processor worked,
        which other work on the machine changes less.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # each process would say where the data came from
        _images(run.dataset)
    start = time.process_time()
    model, history = train(run, device=device)
    evaluations = {
        f"{quantity}_{evaluation['iteration']}": evaluation[quantity]
        for evaluation in history.evaluations
        for quantity in ("accuracy", "test_loss", "train_loss")
    }
    early = history.losses[:EARLY]
    origin = lesson.provenance()
    versions = " ".join(f"{name}={version}" for name, version in origin.pop("versions").items())
    return {
        **asdict(run),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": history.accuracy,
        "diverged_at": history.diverged_at,
        "early_loss": sum(early) / len(early),
        "seconds": round(history.seconds, 2),
        "cpu_seconds": round(time.process_time() - start, 2),
        **evaluations,
        "device": str(training.pick_device(device)),
        **origin,
        "versions": versions,
    }


def read_table(table):
    """A table of runs as a frame; an empty one if there is no such file.

    Raises
    ------
    UsageError
        If the file is no table of runs; the message names it.
    """
    table = Path(table)
    if not table.exists():
        return pd.DataFrame()
    try:
        frame = pd.read_csv(table)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise UsageError(f"{table} cannot be read as a table of runs ({reason})") from None
    missing = {field.name for field in fields(Run) if field.default is MISSING} - set(frame)
    if missing:
        raise UsageError(f"{table} is no table of runs: it has no column {', '.join(sorted(missing))}")
    unknown = set(frame["model"].astype(str)) - set(MODELS)
    if unknown:
        raise UsageError(f"{table} has the model {min(unknown)}; there are {', '.join(MODELS)}")
    return frame


def runs_of(frame):
    """The `Run` of each row of a table."""
    names = [field.name for field in fields(Run) if field.name in frame]  # an older table lacks the newest
    if frame.empty:
        return []
    settings = frame[names].astype(object).where(frame[names].notna(), None)
    return [
        Run(**{name: value for name, value in zip(names, values, strict=True) if value is not None})
        for values in settings.itertuples(index=False)
    ]


def work(run):
    """How long a run takes, in a unit of its own: enough to start the longest first."""
    cell, _, layer_dim = MODELS[run.model]
    return run.n_iters * layer_dim * (4 if cell == "LSTM" else 1)


def estimate(runs, device="auto"):
    """Seconds that runs take, one after the other, from a few iterations of each model."""
    seconds = {}
    for model in {run.model for run in runs}:
        few, more = (row(Run(model, 0.01, seed=0, n_iters=n_iters), device)["seconds"] for n_iters in (3, 23))
        # the few iterations are little more than the evaluation that follows them
        seconds[model] = max(0.0, more - few) / 20 + few / _EVAL_EVERY
    return sum(seconds[run.model] * run.n_iters for run in runs)
