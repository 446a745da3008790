"""Networks that read Moby-Dick and predict its next character: cells, lengths of truncation, clipping, and size."""

import contextlib
import functools
import io
import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from labutils import data, language, training
from labutils.experiments.runs import Run

CHARACTERS_AN_UPDATE = 2048  # however they are cut into streams and steps
TRUNCATIONS = (1, 4, 16, 64)
ORDER = 7  # of the n-grams that networks are mixed with: the best on the validation chapters
PROMPT = "The whale"
_SAMPLE, _TEMPERATURE = 500, 0.7


@dataclass(frozen=True)
class TextRun(Run):
    """Settings of one network that reads the training chapters; their defaults are the lesson's.

    Attributes
    ----------
    model : {"RNN", "LSTM", "GRU"}
        The cell.
    seed : int
        Of the initial weights, and of the sample.
    n_steps : int
        Characters after which backpropagation through time is cut; `CHARACTERS_AN_UPDATE` over it is the number
        of streams.
    hidden_dim : int
    n_iters : int
    optimizer : {"adam", "sgd"}
    learning_rate : float
        With ``one_cycle``, the largest one.
    clip_norm : float or None
        As for `language.fit`; None clips nothing.
    one_cycle : bool
        Whether the learning rate rises over the first tenth of the run and then falls (torch's OneCycleLR).
    dataset : str
        As for `data.moby_dick`.
    """

    model: str
    seed: int
    n_steps: int = 64
    hidden_dim: int = 128
    n_iters: int = 1000
    optimizer: str = "adam"
    learning_rate: float = 0.005
    clip_norm: float | None = None
    one_cycle: bool = False
    dataset: str = "moby-dick"

    WORDS: ClassVar = {"model": language.CELLS, "optimizer": ("adam", "sgd")}

    def measure(self, device="auto"):
        """Train the run.

        Returns
        -------
        dict
            ``bits``, bits per character on the test chapters, and ``validation_bits``, nan where the training ended
            in numbers that are not finite; ``mixed_bits``, those of `language.mixed_bits_per_character` with n-grams of
            `ORDER` characters on the test chapters; ``n_parameters``; ``updates`` that were made; ``clipped_share``, the share
            of updates whose gradient was longer than the threshold, None without one; ``largest_gradient``, the
            longest gradient before clipping; ``early_loss``, the mean loss of the first tenth of the updates;
            ``train_cpu_seconds``, processor time of the training alone; ``sample``, how the model goes on after
            `PROMPT`.
        """
        with contextlib.redirect_stdout(io.StringIO()):  # each process would say where the data came from
            book = _book(self.dataset)
        start = time.process_time()
        model, history = train(self, device=device)
        seconds = time.process_time() - start
        norms, early = history.gradient_norms, history.losses[: max(1, self.n_iters // 10)]
        clipped = None
        if self.clip_norm is not None:
            clipped = sum(norm > self.clip_norm for norm in norms) / len(norms)
        model.cpu()
        test_text, validation_text = book.encode(book.test), book.encode(book.validation)
        test = language.bits_per_character(model, test_text)
        sample = ""
        if math.isfinite(test):
            prompt = book.encode(PROMPT)
            sample = book.decode(
                language.sample(model, prompt, _SAMPLE, temperature=_TEMPERATURE, seed=self.seed)
            )
        return {
            "bits": test,
            "validation_bits": language.bits_per_character(model, validation_text),
            "mixed_bits": language.mixed_bits_per_character(model, _ngram(self.dataset), test_text),
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "updates": len(history.losses),
            "clipped_share": clipped,
            "largest_gradient": max(norms),
            "early_loss": sum(early) / len(early),
            "train_cpu_seconds": round(seconds, 2),
            "sample": sample,
        }

    def work(self):
        blocks = {"RNN": 1, "GRU": 3, "LSTM": 4}[self.model]
        return self.n_iters * (2 + blocks * (self.hidden_dim / 128) ** 2)


def next_character(seeds=range(3)):
    """What the lesson compares: cells, lengths of truncation, thresholds of clipping, and a larger network.

    One factor is changed at a time, and each update reads as many characters.
    """
    runs = []
    for seed in seeds:
        runs += [TextRun(cell, seed, clip_norm=1.0) for cell in language.CELLS]
        runs += [TextRun("RNN", seed, n_steps=n_steps, clip_norm=1.0) for n_steps in TRUNCATIONS[:-1]]
        runs += [TextRun("LSTM", seed, n_steps=4, clip_norm=1.0)]
        runs += [TextRun("RNN", seed)]  # not clipped
        runs += [
            TextRun("RNN", seed, n_iters=500, optimizer="sgd", learning_rate=3.0, clip_norm=clip_norm)
            for clip_norm in (0.25, 1.0, None)
        ]
        runs += [TextRun("LSTM", seed, hidden_dim=512, n_iters=3760, clip_norm=1.0, one_cycle=True)]
    return runs


def train(run, *, n_iters=None, device="auto"):
    """Train one run.

    Parameters
    ----------
    run : TextRun
    n_iters : int, optional
        Stop after so many of the run's updates.
    device : str
        As for `training.pick_device`.

    Returns
    -------
    language.CharModel, language.TextHistory
    """
    device = training.pick_device(device)
    book = _book(run.dataset)
    text = language.streams(book.encode(book.train), CHARACTERS_AN_UPDATE // run.n_steps).to(device)
    torch.manual_seed(run.seed)
    model = language.CharModel(len(book.characters), run.hidden_dim, run.model).to(device)
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = optimizers[run.optimizer](model.parameters(), lr=run.learning_rate)
    schedule = None
    if run.one_cycle:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, run.learning_rate, run.n_iters, pct_start=0.1
        )
    history = language.fit(
        model,
        optimizer,
        text,
        n_steps=run.n_steps,
        n_iters=n_iters or run.n_iters,
        clip_norm=math.inf if run.clip_norm is None else run.clip_norm,
        schedule=schedule,
    )
    return model, history


@functools.cache
def _book(dataset):
    return data.moby_dick(dataset, allow_subset=False)


@functools.cache
def _ngram(dataset):
    book = _book(dataset)
    return language.NGram(ORDER, len(book.characters)).fit(book.encode(book.train))
