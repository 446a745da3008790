"""Networks that read digits row by row: the six of the lab, and a recipe for the smallest LSTM."""

import contextlib
import functools
import io
import itertools
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from labutils import data, recurrent, training
from labutils.experiments.runs import RESULTS, Run, read_table, runs_of

MODELS = {  # name in the lab: cell, nonlinearity, layers
    "RNN A": ("RNN", "relu", 1),
    "RNN B": ("RNN", "relu", 2),
    "RNN C": ("RNN", "tanh", 2),
    "LSTM A": ("LSTM", "tanh", 1),
    "LSTM B": ("LSTM", "tanh", 2),
    "LSTM C": ("LSTM", "tanh", 3),
}
OTHERS = {  # trained as those of the lab are
    "GRU A": ("GRU", "tanh", 1),
    "bidirectional LSTM": ("both ways", "tanh", 1),
    "two-layer perceptron": ("perceptron", "relu", 1),
    "logistic regression": ("linear", None, 1),
}
NEIGHBOUR = "nearest neighbour"  # has nothing to train
EARLY = 300  # iterations whose mean loss is kept, so that a short run can check a row
N_VALIDATION = 10_000  # training images held out where a choice is to be made
_HIDDEN_DIM, _BATCH_SIZE, _EVAL_EVERY = 100, 100, 500


@dataclass(frozen=True)
class DigitRun(Run):
    """Settings of one network that reads digits; their defaults are the lab's protocol.

    Attributes
    ----------
    model : str
        One of `MODELS` or `OTHERS`, or `NEIGHBOUR`, to which no other setting but the data set matters.
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

    WORDS: ClassVar = {"model": [*MODELS, *OTHERS, NEIGHBOUR]}

    def measure(self, device="auto"):
        """Train the run.

        Returns
        -------
        dict
            Of the nearest neighbour ``accuracy`` and ``diverged_at``; of the others
            ``accuracy``, that of the last evaluation; ``early_loss``, the mean loss of the first `EARLY` iterations;
            ``clipped_share``, the share of updates whose gradient was longer than the threshold, None without one;
            ``seconds``, the wall time, evaluations included; ``accuracy_500``, ``test_loss_500`` and
            ``train_loss_500`` (mean since the evaluation before) and so on, the evaluations.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # each process would say where the data came from
            _images(self.dataset)
        if self.model == NEIGHBOUR:
            return {"accuracy": _neighbour_accuracy(self.dataset), "diverged_at": None}
        model, history = train(self, device=device)
        evaluations = {
            f"{quantity}_{evaluation['iteration']}": evaluation[quantity]
            for evaluation in history.evaluations
            for quantity in ("accuracy", "test_loss", "train_loss")
        }
        early = history.losses[:EARLY]
        clipped = [norm > self.clip_norm for norm in history.gradient_norms]
        return {
            "accuracy": history.accuracy,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "diverged_at": history.diverged_at,
            "early_loss": sum(early) / len(early),
            "clipped_share": sum(clipped) / len(clipped) if clipped else None,
            "seconds": round(history.seconds, 2),
            **evaluations,
        }

    def work(self):
        if self.model == NEIGHBOUR:
            return self.n_iters
        cell, _, layer_dim = (MODELS | OTHERS)[self.model]
        costs = {"RNN": 1, "GRU": 3, "LSTM": 4, "both ways": 8}
        return self.n_iters * layer_dim * costs.get(cell, 0.5)


def six_models():
    """The six models at two learning rates; at the larger one the RNNs also with clipped gradients.

    At that rate many unclipped RNNs end in numbers that are not finite, so they have ten seeds; all else has five.
    """
    rnns = [model for model in MODELS if model.startswith("RNN")]
    runs = [
        DigitRun(model, 0.1, seed, clip_norm)
        for seed, model, clip_norm in itertools.product(range(10), rnns, (None, 1.0, 10.0))
    ]
    runs += [DigitRun(model, 0.1, seed) for seed in range(5) for model in MODELS if model not in rnns]
    return runs + [DigitRun(model, 0.01, seed) for seed in range(5) for model in MODELS]


def long_runs(seeds=range(3)):
    """Four times as many iterations for the shallowest and the deepest LSTM: does the loss on new images rise?"""
    return [
        DigitRun(model, 0.1, seed, n_iters=12_000)
        for model, seed in itertools.product(("LSTM A", "LSTM C"), seeds)
    ]


def variants():
    """A GRU of one layer; and the deepest LSTM with forget gates that start open."""
    opened = [DigitRun("LSTM C", 0.1, seed, forget_bias=1.0) for seed in range(3)]
    return [*(DigitRun("GRU A", 0.1, seed) for seed in range(5)), *opened]


def baselines():
    """What reads the whole digit at once, or from both ends: is it better than the six?"""
    seeds = {"bidirectional LSTM": 3, "two-layer perceptron": 10, "logistic regression": 10}
    trained = [DigitRun(name, 0.1, seed) for name, n_seeds in seeds.items() for seed in range(n_seeds)]
    return [*trained, DigitRun(NEIGHBOUR, 0.1, 0)]


RECIPE = DigitRun(
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
    list of DigitRun

    Raises
    ------
    ValueError
        If the table lacks runs of the search.
    """
    searched, frame = set(recipe_search()), read_table(search)
    frame = frame[[run in searched for run in runs_of(frame, DigitRun)]]
    if len(frame) < len(searched):
        missing = f"{len(searched) - len(frame)} of {len(searched)} runs"
        raise ValueError(f"{search} lacks {missing}; train the experiment recipe_search first")
    settings = [field.name for field in fields(DigitRun) if field.name not in ("learning_rate", "seed")]
    means = frame.groupby([*settings, "learning_rate"], dropna=False, as_index=False)["accuracy"].mean()
    best = means.sort_values("accuracy").drop_duplicates(settings, keep="last").assign(seed=0)
    return [replace(run, seed=seed, validation=False) for run in runs_of(best, DigitRun) for seed in seeds]


def make_model(run):
    """The untrained model of a run, its weights drawn from the run's seed.

    Raises
    ------
    ValueError
        If the run's model is `NEIGHBOUR`.
    """
    if run.model == NEIGHBOUR:
        raise ValueError(f"the {NEIGHBOUR} has no weights to train; its DigitRun.measure classifies with it")
    cell, nonlinearity, layer_dim = (MODELS | OTHERS)[run.model]
    torch.manual_seed(run.seed)
    kinds = {
        "RNN": functools.partial(recurrent.RNNModel, nonlinearity=nonlinearity),
        "LSTM": recurrent.LSTMModel,
        "GRU": recurrent.GRUModel,
        "both ways": recurrent.BidirectionalLSTMModel,
    }
    if cell in kinds:
        model = kinds[cell](28, _HIDDEN_DIM, layer_dim, 10)
    elif cell == "perceptron":
        hidden = nn.Linear(28 * 28, _HIDDEN_DIM)
        model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(_HIDDEN_DIM, 10))
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
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
    run : DigitRun
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


def _neighbour_accuracy(dataset):
    """Share of the test images that have the label of the training image nearest to them, pixel by pixel."""
    images = _images(dataset)
    (train, train_labels), (test, labels) = (
        (part[0].flatten(1).numpy(), part[1].numpy()) for part in (images.train, images.test)
    )
    return KNeighborsClassifier(1).fit(train, train_labels).score(test, labels)


@functools.cache
def _images(dataset):
    return data.mnist(dataset, allow_subset=False)
