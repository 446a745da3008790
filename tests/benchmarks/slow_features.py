"""Time `labutils.factor_models.SlowFeatureAnalysis` against sklearn-sfa, and against what it cannot avoid.

Run it from the repository root::

    python tests/benchmarks/slow_features.py
    python tests/benchmarks/slow_features.py --n-samples 10000 --repeats 5    # a quick try

All three sides have the same float64 series before them, and one thread. They take turns, round after round;
a ratio is that of two neighbours in a round, and the table shows medians over the rounds.

labutils
    `SlowFeatureAnalysis().fit(X)`.
sklearn-sfa
    `sksfa.SFA().fit(X)`: a PCA of the data, and one of the steps of the whitened data.
two products
    `X.T @ X` and `steps.T @ steps`, of `steps` that are there already. NumPy computes one triangle of such a
    product and copies it to the other.

Ratios are of processor times, which on one thread are the wall times of a machine with nothing else to do.
Memory is the peak of what `fit` allocates (tracemalloc), relative to the data. MDP is left out: its last
release, 3.6, does not import on current NumPy.

The exit status is 0 whether or not the targets are met: this is a measurement, not a test.
"""

import argparse
import json
import os
import platform
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np
import scipy
import sklearn
import sksfa
from scipy.signal import lfilter
from threadpoolctl import threadpool_info, threadpool_limits

from labutils.factor_models import SlowFeatureAnalysis

N_SAMPLES, N_FEATURES = 100_000, 100
SPEED_UP_TARGET = 20  # times as fast as sklearn-sfa, at least
PRODUCTS_TARGET = 1.5  # of the time of the two products, at most
MEMORY_TARGET = 1  # of the size of the data, at most
GROWTH_SAMPLES = (25_000, 50_000, 100_000, 200_000)
GROWTH_FEATURES = (50, 100, 200, 400)
GROWTH_N_SAMPLES = 25_000  # while the number of features grows


def make_series(n_samples, n_features, seed):
    """A random mixture of autoregressive signals with time constants up to some 100 samples."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_samples, n_features))
    signals = np.empty_like(noise)
    for j, keep in enumerate(np.linspace(0, 0.99, n_features)):
        signals[:, j] = lfilter([np.sqrt(1 - keep**2)], [1, -keep], noise[:, j])
    return signals @ rng.standard_normal((n_features, n_features)) + 10


def seconds(function):
    """Processor and wall seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}


def measure_rounds(sides, repeats):
    """Times of each side, the sides taking turns; one round before does not count."""
    times = {name: [] for name in sides}
    for k in range(repeats + 1):
        for name, function in sides.items():
            taken = seconds(function)
            if k > 0:
                times[name].append(taken)
    return times


def median(times, clock="processor"):
    return statistics.median(taken[clock] for taken in times)


def ratio(times, name, other):
    """Median over the rounds of the time of one side relative to that of another."""
    pairs = zip(times[name], times[other], strict=True)
    return statistics.median(one["processor"] / two["processor"] for one, two in pairs)


def peak_memory(function):
    """The most that a call has allocated at a time, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def disagreement(X):
    """Largest 1 - |correlation| between a feature of one side and the same of the other."""
    ours, theirs = SlowFeatureAnalysis().fit_transform(X), sksfa.SFA().fit(X).transform(X)
    theirs -= theirs.mean(axis=0)
    return float(1 - np.abs(np.mean(ours * theirs, axis=0) / theirs.std(axis=0)).min())


def measure_growth(shapes, seed, repeats):
    """Time of `fit` for each shape, and the exponent with which it grows along the axis that differs."""
    series = {shape: make_series(*shape, seed) for shape in shapes}
    sides = {shape: (lambda X=X: SlowFeatureAnalysis().fit(X)) for shape, X in series.items()}
    times = {shape: median(taken) for shape, taken in measure_rounds(sides, repeats).items()}
    axis = 0 if len({shape[0] for shape in shapes}) > 1 else 1
    sizes = [shape[axis] for shape in shapes]
    exponent = np.polyfit(np.log(sizes), np.log(list(times.values())), 1)[0]
    return {"sizes": sizes, "seconds": list(times.values()), "exponent": float(exponent)}


def measure(n_samples, n_features, repeats, seed):
    """The whole measurement, as a dict that can be written as JSON."""
    X = make_series(n_samples, n_features, seed)
    steps = np.diff(X, axis=0)
    sides = {
        "labutils": lambda: SlowFeatureAnalysis().fit(X),
        "two products": lambda: (X.T @ X, steps.T @ steps),
        "sklearn-sfa": lambda: sksfa.SFA().fit(X),
    }
    times = measure_rounds(sides, repeats)
    speed_up = ratio(times, "sklearn-sfa", "labutils")
    products = ratio(times, "labutils", "two products")
    memory = {name: peak_memory(sides[name]) / X.nbytes for name in ("labutils", "sklearn-sfa")}
    return {
        "settings": {"n_samples": n_samples, "n_features": n_features, "repeats": repeats, "seed": seed},
        "times": times,
        "speed_up": speed_up,
        "of_two_products": products,
        "memory_of_data": memory,
        "disagreement": disagreement(X),
        "growth": {
            "n_samples": measure_growth([(n, n_features) for n in GROWTH_SAMPLES], seed, repeats),
            "n_features": measure_growth([(GROWTH_N_SAMPLES, d) for d in GROWTH_FEATURES], seed, repeats),
        },
        "met": {
            "speed_up": speed_up >= SPEED_UP_TARGET,
            "of_two_products": products <= PRODUCTS_TARGET,
            "memory_of_data": memory["labutils"] <= MEMORY_TARGET,
        },
        "blas": [
            f"{library['prefix']} {library['version']} {library.get('architecture', '')}".strip()
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ],
        "environment": {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def report(result):
    """The result as a short table."""
    settings, times, memory = result["settings"], result["times"], result["memory_of_data"]
    n_samples, n_features = settings["n_samples"], settings["n_features"]
    lines = [
        f"{n_samples:,} x {n_features} float64, {settings['repeats']} rounds, one thread",
        ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        f"BLAS: {'; '.join(result['blas'])}"
        + "".join(f"; {name}={value}" for name, value in result["environment"].items()),
        "",
        f"{'':14}{'time':>9}{'wall':>10}{'memory / data':>16}",
    ]
    for name, taken in times.items():
        share = f"{memory[name]:16.2f}" if name in memory else ""
        lines.append(f"{name:14}{median(taken):7.3f} s{median(taken, 'wall'):8.3f} s{share}")
    lines.append("")
    for axis, growth in result["growth"].items():
        pairs = zip(growth["sizes"], growth["seconds"], strict=True)
        curve = ", ".join(f"{size:,}: {taken:.3f} s" for size, taken in pairs)
        lines.append(f"{axis} {curve}; grows with the power {growth['exponent']:.2f}")
    if result["load_average"] is not None:
        lines.append(
            f"Load average of the last minute, on {result['cores']} cores: {result['load_average']:.2f}"
        )
    lines.append(f"Largest 1 - |correlation| with a feature of sklearn-sfa: {result['disagreement']:.1e}")
    if (n_samples, n_features) != (N_SAMPLES, N_FEATURES):
        lines.append(f"The targets are meant for {N_SAMPLES:,} x {N_FEATURES}.")
    targets = {
        "speed_up": ("Times as fast as sklearn-sfa: at least", SPEED_UP_TARGET, result["speed_up"]),
        "of_two_products": ("Times the two products: at most", PRODUCTS_TARGET, result["of_two_products"]),
        "memory_of_data": ("Memory beyond the data: at most", MEMORY_TARGET, memory["labutils"]),
    }
    for name, (what, target, measured) in targets.items():
        verdict = "met" if result["met"][name] else "missed"
        lines.append(f"{what} {target}; measured {measured:.2f}: {verdict}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n-samples", type=int, default=N_SAMPLES, help="length of the series (default %(default)s)"
    )
    parser.add_argument("--n-features", type=int, default=N_FEATURES, help="its width (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the series (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks/slow_features.json"),
        help="file for the result, as JSON (default %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.n_samples < 10 * arguments.n_features or arguments.n_features < 1 or arguments.repeats < 1:
        parser.error("--n-features and --repeats must be positive, and --n-samples ten times --n-features")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(limits=1):
        result = measure(arguments.n_samples, arguments.n_features, arguments.repeats, arguments.seed)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{report(result)}\nwritten: {arguments.output}")


if __name__ == "__main__":
    main()
