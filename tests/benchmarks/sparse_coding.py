"""Time sparse codes of natural-image patches: `labutils.factor_models.fista`, scikit-learn and SPAMS.

Run it from the repository root, on a machine with nothing else to do::

    python tests/benchmarks/sparse_coding.py
    python tests/benchmarks/sparse_coding.py --alpha 1.2    # sparser codes

Every side codes the same 10,000 whitened patches of 12 x 12 pixels (float32) with the same 256 atoms of length
one, on one thread. The atoms are learned beforehand, briefly, by scikit-learn from 20,000 other patches.
Objectives are summed over the patches, in float64, and compared with the optimum: a solve in float64 whose
duality gap is at most 1e-8 of the objective, sample by sample.

fista
    With the largest `tol` that leaves a relative gap of at most 1e-4.
lasso_cd
    `sklearn.decomposition.sparse_encode`, coordinate descent. Its tolerance is fixed (1e-8) and its `max_iter` is
    not: the smallest that leaves a gap of at most 1e-4 is taken, and its warnings are not shown.
lasso_lars
    The same function, least angle regression: exact. It is timed on the first patches only, and its time
    multiplied; the patches are in random order.
SPAMS lasso, SPAMS cd
    Least angle regression (exact), and coordinate descent with the smallest `itermax` that leaves a gap of at
    most 1e-4. Left out where SPAMS is not installed.

The sides take turns, several rounds; times are CPU times of this process, which are those of a clock where
nothing else runs; a ratio is the median of the rounds' ratios. An environment variable such as
OPENBLAS_CORETYPE changes how fast NumPy multiplies matrices, and so the ratios: the kernels in use are named.

The exit status is 0 whether or not the targets are met: this is a measurement, not a test.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse
import sklearn
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from labutils import data
from labutils.factor_models import fista, lasso_objective

try:
    import spams
except ImportError:
    spams = None

PATCH_SIZE, N_COMPONENTS = 12, 256
GAP = 1e-4
TARGETS = {"lasso_cd": 3, "lasso_lars": 30, "SPAMS lasso": 1}  # times as fast as


def learned_dictionary():
    """256 atoms of length one, after three passes over 20,000 patches."""
    first = data.natural_patches(N_COMPONENTS, PATCH_SIZE, seed=1)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    learning = MiniBatchDictionaryLearning(
        N_COMPONENTS, alpha=1.2, fit_algorithm="cd", max_iter=3, dict_init=first, random_state=0
    )
    atoms = learning.fit(data.natural_patches(20_000, PATCH_SIZE, seed=2)).components_
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def contestants(X, dictionary, alpha, n_lars):
    """For each side: a function of its one setting that returns codes, and the settings, coarsest first."""

    def with_sklearn(algorithm, X):
        return lambda max_iter: sparse_encode(
            X, dictionary, algorithm=algorithm, alpha=alpha, max_iter=max_iter
        )

    sides = {
        "fista": (lambda tol: fista(X, dictionary, alpha, tol=tol), np.geomspace(4e-2, 2e-3, 27).tolist()),
        "lasso_cd": (with_sklearn("lasso_cd", X), range(1, 400)),
        "lasso_lars": (with_sklearn("lasso_lars", X[:n_lars]), [1000]),
    }
    if spams is not None:
        columns, atoms = np.asfortranarray(X.T), np.asfortranarray(dictionary.T)
        settings = {"lambda1": float(alpha), "mode": 2, "numThreads": 1}
        zero = scipy.sparse.csc_matrix((len(dictionary), len(X)), dtype=X.dtype)
        sides["SPAMS lasso"] = (lambda _: spams.lasso(columns, D=atoms, **settings), [None])
        sides["SPAMS cd"] = (
            lambda n: spams.cd(columns, D=atoms, A0=zero, itermax=n, tol=1e-6, **settings),
            range(1, 400),
        )
    return sides


def relative_gap(code, X, dictionary, alpha, least):
    code = code.T.toarray() if scipy.sparse.issparse(code) else code
    return lasso_objective(X[: len(code)], dictionary, alpha, code).sum() / least[: len(code)].sum() - 1


def coarsest(settings, gap_of):
    """The first of the settings that leaves at most GAP, by bisection, and what it leaves."""
    low, high = 0, len(settings) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if gap_of(settings[middle]) <= GAP else (middle + 1, high)
    return settings[low], gap_of(settings[low])


def measure(alpha, n_samples, n_lars, n_rounds):
    """The whole measurement, as a dict that can be written as JSON."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    X = data.natural_patches(n_samples, PATCH_SIZE, seed=0)
    dictionary = learned_dictionary()
    best = fista(X, dictionary, alpha, tol=1e-8, max_iter=20_000)
    least = lasso_objective(X, dictionary, alpha, best)
    sides, rows = contestants(X.astype(np.float32), dictionary.astype(np.float32), alpha, n_lars), {}
    for name, (encode, settings) in sides.items():

        def gap_of(setting, encode=encode):
            return relative_gap(encode(setting), X, dictionary, alpha, least)

        setting, gap = coarsest(settings, gap_of)
        rows[name] = {"setting": setting, "gap": gap, "seconds": []}
        print(f"{name}: setting {setting}, relative gap {gap:.1e}", flush=True)
    for _ in range(n_rounds):
        for name, row in rows.items():
            start = time.process_time()
            sides[name][0](row["setting"])
            scale = n_samples / n_lars if name == "lasso_lars" else 1
            row["seconds"].append(scale * (time.process_time() - start))
    for name, row in rows.items():
        pairs = zip(row["seconds"], rows["fista"]["seconds"], strict=True)
        row["ratio"] = statistics.median(theirs / ours for theirs, ours in pairs)
        if name in TARGETS:
            row |= {"target": TARGETS[name], "met": row["ratio"] >= TARGETS[name]}
    return {
        "settings": {
            "alpha": alpha,
            "n_samples": n_samples,
            "n_components": N_COMPONENTS,
            "patch_size": PATCH_SIZE,
            "n_lars": n_lars,
            "n_rounds": n_rounds,
        },
        "active": float((best != 0).mean()),
        "samples_with_code_zero": float((~best.any(axis=1)).mean()),
        "sides": rows,
        "load_average_at_start": load,
        "blas": [
            {key: info.get(key) for key in ("internal_api", "version", "architecture")}
            for info in threadpool_info()
            if info["user_api"] == "blas"
        ],
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def report(result):
    """The result as a short table."""
    settings = result["settings"]
    kernels = sorted({f"{blas['internal_api']} {blas['architecture']}" for blas in result["blas"]})
    lines = [
        (
            f"{settings['n_samples']} patches, {settings['n_components']} atoms, alpha {settings['alpha']}: "
            f"{result['active']:.1%} of the coefficients are active, "
            f"{result['samples_with_code_zero']:.0%} of the codes are zero"
        ),
        f"BLAS: {', '.join(kernels)}; OPENBLAS_CORETYPE: {result['openblas_coretype'] or 'not set'}",
        "",
        f"{'':14}{'setting':>10}{'relative gap':>14}{'CPU time':>12}{'times fista':>13}   target",
    ]
    for name, row in result["sides"].items():
        setting = row["setting"] if name not in ("lasso_lars", "SPAMS lasso") else "exact"
        setting = f"{setting:.4f}" if isinstance(setting, float) else setting
        target = f"{row['target']}: {'met' if row['met'] else 'missed'}" if "target" in row else ""
        seconds = statistics.median(row["seconds"])
        lines.append(
            f"{name:14}{setting:>10}{row['gap']:14.1e}{seconds:10.3f} s{row['ratio']:13.2f}   {target}"
        )
    lines += [
        "",
        f"lasso_lars: timed on {settings['n_lars']} patches, times {settings['n_samples'] / settings['n_lars']:g}",
    ]
    if result["load_average_at_start"] is not None:
        lines.append(f"Load average of the last minute at the start: {result['load_average_at_start']:.2f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--alpha", type=float, default=0.8, help="weight of the penalty (default %(default)s)"
    )
    parser.add_argument("--n-samples", type=int, default=10_000, help="patches (default %(default)s)")
    parser.add_argument(
        "--n-lars", type=int, default=500, help="patches for lasso_lars, which is slow (default %(default)s)"
    )
    parser.add_argument("--n-rounds", type=int, default=5, help="rounds of timing (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks/sparse_coding.json"),
        help="file for the result, as JSON (default %(default)s)",
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.n_lars <= arguments.n_samples:
        parser.error(f"--n-lars must be from 1 to {arguments.n_samples}, got {arguments.n_lars}")
    if arguments.n_rounds < 1:
        parser.error(f"--n-rounds must be a positive integer, got {arguments.n_rounds}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = measure(arguments.alpha, arguments.n_samples, arguments.n_lars, arguments.n_rounds)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{report(result)}\nwritten: {arguments.output}")


if __name__ == "__main__":
    main()
