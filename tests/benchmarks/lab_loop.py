"""Time the training of the lab's six models: the lab's own loop against `labutils.training.fit_all`.

Run it from the repository root, on a machine with nothing else to do::

    python tests/benchmarks/lab_loop.py
    python tests/benchmarks/lab_loop.py --n-iters 200    # a quick try; the targets are meant for 3,000

Both sides train RNN A, B, C and LSTM A, B, C (100 units a layer; SGD, learning rate 0.1 for the LSTMs and 0.01
for the RNNs, at which none ends in NaN; batches of 100) on the whole of MNIST, from the same initial weights,
for as many iterations, and evaluate on the test set after every 500 and after the last.

lab
    As the lab's steps 1 to 7 do it: each image is a PIL image turned into a tensor when its batch is put
    together, gradients are taken with respect to the images too, evaluation builds the graph for gradients,
    torch uses its default number of threads (OMP_NUM_THREADS and MKL_NUM_THREADS are ignored), and the
    models are trained one after the other.
labutils
    `fit_all` with two models at a time, one thread each.
limit
    The operations of all matrix products that training and evaluation cannot avoid, divided by the speed of
    a large matrix product on all cores at once (a process and a thread a core), the mean of a measurement before and one after.

The wall times hold training and evaluation. Fetching MNIST, reading its files into memory, making the models
and a few iterations of warm-up are in neither of them. The two sides shuffle with different random numbers,
so that their accuracies agree only as closely as those of two seeds. Everything is computed on the CPU.

Where the speeds of the matrix product before and after differ much, the machine was busy with other things,
and the ratio says little. So it does where the load average at the start is well above zero: threads that wait
for each other, as the lab's do, lose more to other work than one thread does, and the ratio then flatters labutils.

The exit status is 0 whether or not the targets are met: this is a measurement, not a test.
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
from labutils.data.vision import import_torchvision
from labutils.experiments import MODELS
from labutils.recurrent import LSTMModel, RNNModel

HIDDEN_DIM = 100
BATCH_SIZE = 100
EVAL_EVERY = 500
LEARNING_RATES = {"LSTM": 0.1, "RNN": 0.01}
N_JOBS = 2
N_STEPS = 28
TARGETS = {"lab": 1 / 3, "limit": 1.6}  # our wall time in units of these
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


class LabRNN(nn.Module):
    """The same for `labutils.recurrent.RNNModel`."""

    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim, nonlinearity):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.layer_dim = layer_dim
        self.rnn = nn.RNN(input_dim, hidden_dim, layer_dim, batch_first=True, nonlinearity=nonlinearity)
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x):
        h0 = torch.zeros(self.layer_dim, x.size(0), self.hidden_dim).requires_grad_()
        out, _ = self.rnn(x, h0.detach())
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


def make_runs(lstm_class, rnn_class, seed):
    """The six models with their optimizers, by label; the same weights for either kind of class."""
    runs = {}
    for label, (cell, nonlinearity, layers) in MODELS.items():
        torch.manual_seed(seed)
        if cell == "LSTM":
            model = lstm_class(28, HIDDEN_DIM, layers, 10)
        else:
            model = rnn_class(28, HIDDEN_DIM, layers, 10, nonlinearity)
        runs[label] = model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATES[cell])
    return runs


def operations(model, n_iters):
    """Floating-point operations of the matrix products in training and evaluating a model.

    A weight takes part in a product forward, in one for its own gradient, and in one for the gradient of its
    input, which the lowest layer's input weights are spared.
    """
    weights = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    per_image = {name: n if name == "fc.weight" else N_STEPS * n for name, n in weights.items()}
    forward = 2 * sum(per_image.values())
    training_step = 3 * forward - 2 * sum(n for name, n in per_image.items() if name.endswith("weight_ih_l0"))
    n_evaluations = -(-n_iters // EVAL_EVERY)
    return n_iters * BATCH_SIZE * training_step + n_evaluations * 10_000 * forward


def measure_lab(n_iters, seed):
    """Train the six models as the lab does; return times and accuracies."""
    torchvision = import_torchvision()
    to_tensor = torchvision.transforms.ToTensor()
    root = data.cache_folder()
    train = torchvision.datasets.MNIST(root, train=True, transform=to_tensor)
    test = torchvision.datasets.MNIST(root, train=False, transform=to_tensor)
    generator = torch.Generator().manual_seed(seed)
    train_loader = torch.utils.data.DataLoader(train, BATCH_SIZE, shuffle=True, generator=generator)
    test_loader = torch.utils.data.DataLoader(test, BATCH_SIZE, shuffle=False)

    few = torch.utils.data.DataLoader(torch.utils.data.Subset(test, range(BATCH_SIZE)), BATCH_SIZE)
    for label, run in make_runs(LabLSTM, LabRNN, seed).items():
        train_as_lab(*run, train_loader, few, WARM_UP_ITERS, f"warm-up of {label}")

    runs, models = make_runs(LabLSTM, LabRNN, seed), {}
    threads = torch.get_num_threads()
    start = time.perf_counter()
    for label, run in runs.items():
        model_start = time.perf_counter()
        accuracy = train_as_lab(*run, train_loader, test_loader, n_iters, label)
        models[label] = {"seconds": time.perf_counter() - model_start, "accuracy": accuracy}
    return {"threads": threads, "wall_seconds": time.perf_counter() - start, "models": models}


def measure_labutils(dataset, n_iters, seed):
    """Train the six models with `fit_all`; return times and accuracies."""
    settings = {
        "n_jobs": N_JOBS,
        "batch_size": BATCH_SIZE,
        "eval_every": EVAL_EVERY,
        "seed": seed,
        "device": "cpu",
    }
    few = tuple(tensor[:BATCH_SIZE] for tensor in dataset.test)
    training.fit_all(
        make_runs(LSTMModel, RNNModel, seed),
        dataset.train,
        few,
        **settings,
        n_iters=WARM_UP_ITERS,
        verbose=False,
    )

    runs = make_runs(LSTMModel, RNNModel, seed)
    start = time.perf_counter()
    histories = training.fit_all(runs, dataset.train, dataset.test, **settings, n_iters=n_iters)
    wall = time.perf_counter() - start
    models = {
        label: {"seconds": history.seconds, "accuracy": history.accuracy}
        for label, history in histories.items()
    }
    return {"threads": 1, "models_at_a_time": N_JOBS, "wall_seconds": wall, "models": models}


def gemm_rate():
    """Speed of matrix products (2048, 2048) in float32 with all cores busy, in GFLOP/s.

    It is measured in processes of their own, which leaves the number of threads here as torch chose it.
    """
    n_cores = os.cpu_count()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(n_cores)
    with ProcessPoolExecutor(n_cores, context, initializer=_share, initargs=(barrier,)) as pool:
        return sum(pool.map(_gemm_rate, range(n_cores)))


def _share(barrier):
    global all_cores
    all_cores = barrier


def _gemm_rate(_):
    torch.set_num_threads(1)
    a, b = torch.rand(2, 2048, 2048)
    torch.matmul(a, b)
    all_cores.wait(timeout=60)
    rates = []
    for _ in range(15):
        start = time.perf_counter()
        torch.matmul(a, b)
        rates.append(2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def profile(dataset, seed, n_iters=20):
    """Share of a training step that each of torch's operations takes, by model; the largest of them."""
    shares = {}
    for label, (model, optimizer) in make_runs(LSTMModel, RNNModel, seed).items():
        few = tuple(tensor[:BATCH_SIZE] for tensor in dataset.test)
        settings = {"n_iters": n_iters, "seed": seed, "device": "cpu", "verbose": False}
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            training.fit(model, optimizer, dataset.train, few, **settings)
        events = profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:4]
        shares[label] = {event.key: event.self_cpu_time_total / total for event in largest}
    return shares


def measure(n_iters, seed):
    """The whole measurement, as a dict that can be written as JSON."""
    dataset = data.mnist(allow_subset=False)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    gemm = {"before": gemm_rate()}
    print(f"\nThe lab's loop, {torch.get_num_threads()} threads, one model after the other")
    # The lab comes first: fit sets the number of threads, and must not set it for the lab.
    lab = measure_lab(n_iters, seed)
    print(f"\nlabutils, {N_JOBS} models at a time, one thread each")
    ours = measure_labutils(dataset, n_iters, seed)
    gemm["after"] = gemm_rate()
    runs = make_runs(LSTMModel, RNNModel, seed)
    n_operations = {label: operations(model, n_iters) for label, (model, _) in runs.items()}
    limit = sum(n_operations.values()) / (1e9 * statistics.mean(gemm.values()))
    ratios = {"lab": ours["wall_seconds"] / lab["wall_seconds"], "limit": ours["wall_seconds"] / limit}
    return {
        "settings": {
            "n_iters": n_iters,
            "seed": seed,
            "eval_every": EVAL_EVERY,
            "batch_size": BATCH_SIZE,
            "hidden_dim": HIDDEN_DIM,
            "learning_rates": LEARNING_RATES,
        },
        "lab": lab,
        "labutils": ours,
        "operations": n_operations,
        "limit_seconds": limit,
        "ratios": ratios,
        "targets": TARGETS,
        "gemm_gflops_all_cores": gemm,
        "profile": profile(dataset, seed),
        "load_average_at_start": load,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": import_torchvision().__version__,
        },
    }


def report(result):
    """The result as a short table."""
    lab, ours, gemm = result["lab"], result["labutils"], result["gemm_gflops_all_cores"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    n_iters = result["settings"]["n_iters"]
    lines = [f"{n_iters} iterations, {result['cores']} cores, {versions}", ""]
    lines += [f"{'':12}{'lab':>10}{'labutils':>11}{'accuracy: lab':>18}{'labutils':>11}{'GFLOP':>9}"]
    for label in MODELS:
        theirs, our = lab["models"][label], ours["models"][label]
        lines.append(
            f"{label:12}{theirs['seconds']:8.1f} s{our['seconds']:9.1f} s"
            f"{theirs['accuracy']:18.2%}{our['accuracy']:11.2%}{result['operations'][label] / 1e9:9.0f}"
        )
    lines += [
        f"{'wall time':12}{lab['wall_seconds']:8.1f} s{ours['wall_seconds']:9.1f} s",
        "",
        f"lab: {lab['threads']} threads, one model after the other",
        f"labutils: {ours['models_at_a_time']} models at a time, one thread each, so that their times overlap",
        "GEMM on all cores, GFLOP/s: " + ", ".join(f"{rate:.0f} {when}" for when, rate in gemm.items()),
        f"The matrix products alone would take {result['limit_seconds']:.1f} s at this speed.",
        "Where a training step's time goes (largest operations):",
    ]
    for label, shares in result["profile"].items():
        lines.append(f"  {label}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    if result["load_average_at_start"] is not None:
        lines.append(f"Load average of the last minute at the start: {result['load_average_at_start']:.2f}")
    if n_iters < LAB_ITERS:
        lines.append(f"A short run: the targets are meant for {LAB_ITERS} iterations.")
    for name, target in TARGETS.items():
        ratio = result["ratios"][name]
        verdict = "met" if ratio <= target else "missed"
        lines.append(
            f"Time over that of the {name}: at most {target:.3g} wanted, measured {ratio:.3f}: {verdict}"
        )
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
