"""Time the training of the lab's three LSTM models: the lab's own loop against `labutils.training.fit_all`.

Run it from the repository root, on a machine with nothing else to do::

    python tests/benchmarks/lab_loop.py
    python tests/benchmarks/lab_loop.py --n-iters 200    # a quick try; the target is meant for 3,000

Both sides train models A, B and C (1, 2 and 3 layers of 100 units; SGD with learning rate 0.1; batches of
100) on the whole of MNIST, from the same initial weights, for as many iterations, and evaluate on the test
set after every 500 and after the last.

lab
    As the lab's steps 1 to 7 do it: each image is a PIL image turned into a tensor when its batch is put
    together, gradients are taken with respect to the images too, evaluation builds the graph for gradients,
    torch uses its default number of threads (OMP_NUM_THREADS and MKL_NUM_THREADS are ignored), and the
    models are trained one after the other.
labutils
    `fit_all` with two models at a time, one thread each.

The wall times hold training and evaluation. Fetching MNIST, reading its files into memory, making the models
and a few iterations of warm-up are in neither of them. The two sides shuffle with different random numbers,
so that their accuracies agree only as closely as those of two seeds. Everything is computed on the CPU.

The speed of a matrix product on one thread is measured before, between and after: where the three differ
much, the machine was busy with other things, and the ratio says little. So it does where the load average at
the start is well above zero: threads that wait for each other, as the lab's do, lose more to other work than
one thread does, and the ratio then flatters labutils.

The exit status is 0 whether or not the target is met: this is a measurement, not a test.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

from labutils import data, training
from labutils.data import image_sets
from labutils.recurrent import LSTMModel

LAYERS = {"A": 1, "B": 2, "C": 3}
HIDDEN_DIM = 100
BATCH_SIZE = 100
EVAL_EVERY = 500
LEARNING_RATE = 0.1
N_JOBS = 2
TARGET = 0.5  # of the lab's wall time
LAB_ITERS = 3000
WARM_UP_ITERS = 5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class LabLSTM(nn.Module):
    """The lab's model: as `labutils.recurrent.LSTMModel`, with a state made, and detached, by hand."""

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.layer_dim = layer_dim
        self.lstm = nn.LSTM(input_dim, hidden_dim, layer_dim, batch_first=True)
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x):
        h0 = torch.zeros(self.layer_dim, x.size(0), self.hidden_dim).requires_grad_()
        c0 = torch.zeros(self.layer_dim, x.size(0), self.hidden_dim).requires_grad_()
        out, _ = self.lstm(x, (h0.detach(), c0.detach()))
        return self.fc(out[:, -1, :])


def train_as_lab(model, optimizer, train_loader, test_loader, n_iters, label):
    """Train `model` by the lab's protocol; return the test accuracy (fraction) after the last iteration."""
    criterion = nn.CrossEntropyLoss()
    iteration = 0
    while True:
        for images, labels in train_loader:
            images = images.view(-1, 28, 28).requires_grad_()
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            iteration += 1
            if iteration % EVAL_EVERY == 0 or iteration == n_iters:
                accuracy = accuracy_as_lab(model, test_loader)
                print(f"{label}  iteration {iteration:5d}  loss {loss.item():.3f}  accuracy {accuracy:6.2%}")
            if iteration == n_iters:
                return accuracy


def accuracy_as_lab(model, test_loader):
    """Test accuracy (fraction), counted batch by batch, with gradients switched on as in the lab."""
    correct, total = 0, 0
    for images, labels in test_loader:
        scores = model(images.view(-1, 28, 28))
        _, predicted = torch.max(scores.data, 1)
        total += labels.size(0)
        correct += (predicted == labels).sum()
    return (correct / total).item()


def make_runs(model_class, seed):
    """The three models with their optimizers, by label; the same weights for either class."""
    runs = {}
    for label, layers in LAYERS.items():
        torch.manual_seed(seed)
        model = model_class(28, HIDDEN_DIM, layers, 10)
        runs[label] = model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    return runs


def measure_lab(n_iters, seed):
    """Train the three models as the lab does; return times and accuracies."""
    torchvision = image_sets._torchvision()
    to_tensor = torchvision.transforms.ToTensor()
    root = data.cache_folder()
    train = torchvision.datasets.MNIST(root, train=True, transform=to_tensor)
    test = torchvision.datasets.MNIST(root, train=False, transform=to_tensor)
    generator = torch.Generator().manual_seed(seed)
    train_loader = torch.utils.data.DataLoader(train, BATCH_SIZE, shuffle=True, generator=generator)
    test_loader = torch.utils.data.DataLoader(test, BATCH_SIZE, shuffle=False)

    few = torch.utils.data.DataLoader(torch.utils.data.Subset(test, range(BATCH_SIZE)), BATCH_SIZE)
    for label, run in make_runs(LabLSTM, seed).items():
        train_as_lab(*run, train_loader, few, WARM_UP_ITERS, f"warm-up of {label}")

    runs, models = make_runs(LabLSTM, seed), {}
    threads = torch.get_num_threads()
    start = time.perf_counter()
    for label, run in runs.items():
        model_start = time.perf_counter()
        accuracy = train_as_lab(*run, train_loader, test_loader, n_iters, label)
        models[label] = {"seconds": time.perf_counter() - model_start, "accuracy": accuracy}
    return {"threads": threads, "wall_seconds": time.perf_counter() - start, "models": models}


def measure_labutils(dataset, n_iters, seed):
    """Train the three models with `fit_all`; return times and accuracies."""
    settings = {
        "n_jobs": N_JOBS,
        "batch_size": BATCH_SIZE,
        "eval_every": EVAL_EVERY,
        "seed": seed,
        "device": "cpu",
    }
    few = tuple(tensor[:BATCH_SIZE] for tensor in dataset.test)
    training.fit_all(
        make_runs(LSTMModel, seed), dataset.train, few, **settings, n_iters=WARM_UP_ITERS, verbose=False
    )

    runs = make_runs(LSTMModel, seed)
    start = time.perf_counter()
    histories = training.fit_all(runs, dataset.train, dataset.test, **settings, n_iters=n_iters)
    wall = time.perf_counter() - start
    models = {
        label: {"seconds": history.seconds, "accuracy": history.accuracy}
        for label, history in histories.items()
    }
    return {"threads": 1, "models_at_a_time": N_JOBS, "wall_seconds": wall, "models": models}


def gemm_rate():
    """Speed of a matrix product (2048, 2048) in float32 on one thread, in GFLOP/s: the median of seven.

    It is measured in a process of its own, which leaves the number of threads here as torch chose it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_gemm_rate).result()


def _gemm_rate():
    torch.set_num_threads(1)
    a, b = torch.rand(2, 2048, 2048)
    torch.matmul(a, b)
    rates = []
    for _ in range(7):
        start = time.perf_counter()
        torch.matmul(a, b)
        rates.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def measure(n_iters, seed):
    """The whole measurement, as a dict that can be written as JSON."""
    dataset = data.mnist(allow_subset=False)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    gemm = {"before": gemm_rate()}
    print(f"\nThe lab's loop, {torch.get_num_threads()} threads, one model after the other")
    # The lab comes first: fit sets the number of threads, and must not set it for the lab.
    lab = measure_lab(n_iters, seed)
    gemm["between"] = gemm_rate()
    print(f"\nlabutils, {N_JOBS} models at a time, one thread each")
    ours = measure_labutils(dataset, n_iters, seed)
    gemm["after"] = gemm_rate()
    ratio = ours["wall_seconds"] / lab["wall_seconds"]
    return {
        "settings": {
            "n_iters": n_iters,
            "seed": seed,
            "eval_every": EVAL_EVERY,
            "batch_size": BATCH_SIZE,
            "hidden_dim": HIDDEN_DIM,
            "learning_rate": LEARNING_RATE,
        },
        "lab": lab,
        "labutils": ours,
        "ratio": ratio,
        "target": TARGET,
        "met": ratio <= TARGET,
        "gemm_gflops_one_thread": gemm,
        "load_average_at_start": load,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": image_sets._torchvision().__version__,
        },
    }


def report(result):
    """The result as a short table."""
    lab, ours, gemm = result["lab"], result["labutils"], result["gemm_gflops_one_thread"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    n_iters = result["settings"]["n_iters"]
    lines = [f"{n_iters} iterations, {result['cores']} cores, {versions}", ""]
    lines += [f"{'':12}{'lab':>10}{'labutils':>11}{'ratio':>8}{'accuracy: lab':>18}{'labutils':>11}"]
    for label, layers in LAYERS.items():
        theirs, our = lab["models"][label], ours["models"][label]
        lines.append(
            f"{label} ({layers} layer{'s' if layers > 1 else ''})".ljust(12)
            + f"{theirs['seconds']:8.1f} s{our['seconds']:9.1f} s{'':8}"
            + f"{theirs['accuracy']:18.2%}{our['accuracy']:11.2%}"
        )
    lines += [
        f"{'wall time':12}{lab['wall_seconds']:8.1f} s{ours['wall_seconds']:9.1f} s{result['ratio']:8.3f}",
        "",
        f"lab: {lab['threads']} threads, one model after the other",
        f"labutils: {ours['models_at_a_time']} models at a time, one thread each, so that their times overlap",
        "GEMM on one thread, GFLOP/s: " + ", ".join(f"{rate:.1f} {when}" for when, rate in gemm.items()),
    ]
    if result["load_average_at_start"] is not None:
        lines.append(f"Load average of the last minute at the start: {result['load_average_at_start']:.2f}")
    if n_iters < LAB_ITERS:
        lines.append(f"A short run: the target is meant for {LAB_ITERS} iterations.")
    verdict = "met" if result["met"] else "missed"
    lines.append(f"Target: at most {result['target']}; measured {result['ratio']:.3f}: {verdict}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n-iters", type=int, default=LAB_ITERS, help="iterations per model (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights and shuffling (default %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks/lab_loop.json"),
        help="file for the result, as JSON (default %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.n_iters < 1:
        parser.error(f"--n-iters must be a positive integer, got {arguments.n_iters}")
    if any(name in os.environ for name in THREAD_VARIABLES):  # read when torch is loaded: start anew without
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = measure(arguments.n_iters, arguments.seed)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{report(result)}\nwritten: {arguments.output}")


if __name__ == "__main__":
    main()
