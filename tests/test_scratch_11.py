"""What notebook 11 writes out, against SciPy and against the runs of its tables."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scratch
import torch
from scipy import stats

from labutils import experiments, recurrent

LESSON = scratch.load("11_rnn_vs_lstm")
VALUES = {
    "ordinary": [95.2, 95.6, 95.0, 95.7, 95.2],
    "two": [1.0, 3.0],
    "badly scaled": [1e9, 1e9 + 1, 1e9 + 3],
    "negative": [-1.0, -2.5, 0.0, -7.0],
    "many": list(np.random.default_rng(0).standard_t(3, size=200)),
}


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("name", VALUES)
def test_t_interval_equals_scipy(name, confidence):
    values = VALUES[name]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    np.testing.assert_allclose(LESSON["t_interval"](values, confidence), theirs, rtol=1e-10)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_paired_interval_equals_scipy(n, confidence):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    theirs = stats.ttest_rel(a, b).confidence_interval(confidence)
    before = a.copy(), b.copy()
    np.testing.assert_allclose(LESSON["paired_interval"](a, b, confidence), theirs, rtol=1e-10)
    np.testing.assert_array_equal((a, b), before)


def test_pairs_are_taken_in_order_whatever_their_index():
    a, b = pd.Series([1.0, 2.0, 4.0], index=[7, 8, 9]), pd.Series([0.0, 0.0, 1.0])
    assert LESSON["paired_interval"](a, b) == LESSON["t_interval"]([1.0, 2.0, 3.0])


def test_equal_values_leave_no_width():
    assert LESSON["t_interval"]([2.0, 2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [1.0, np.inf], [[1.0, 2.0], [3.0, 4.0]]])
def test_values_that_give_no_interval_are_refused(values):
    with pytest.raises(ValueError, match="at least two finite numbers"):
        LESSON["t_interval"](values)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        LESSON["t_interval"]([1.0, 2.0], confidence)


def test_pairs_must_be_complete():
    with pytest.raises(ValueError, match="one entry a pair, got 3 and 2"):
        LESSON["paired_interval"]([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_recipe_written_out_is_that_of_the_table():
    run = dataclasses.replace(experiments.RECIPE, seed=3, n_iters=40, learning_rate=0.02)
    torch.manual_seed(run.seed)
    ours = recurrent.LSTMModel(28, 100, 1, 10)
    optimizer, schedule = LESSON["prepare"](ours, run.learning_rate, run.n_iters)
    for name, parameter in experiments.make_model(run).named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name
    assert type(optimizer) is torch.optim.AdamW
    rates = []
    for _ in range(run.n_iters):
        optimizer.step()
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    assert max(rates) == pytest.approx(0.02, rel=0.01)
    assert rates.index(max(rates)) in (7, 8)  # nearly a fifth of the way
    assert rates[-1] < 1e-4 * 0.02
