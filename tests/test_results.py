"""The two tables of the report's own numbers, against the report read a second time and typed by hand."""

import numpy as np
import pandas as pd
import pytest

from labutils import experiments
from labutils.course import notebook

LOG = {  # loss to three decimals; right answers among the 10,000 test images, at iterations 500 to 3000
    "LSTM A": ((1.048, 0.887, 0.310, 0.196, 0.181, 0.099), (7258, 7323, 9090, 9371, 9571, 9637)),
    "LSTM B": ((2.303, 2.112, 0.833, 0.326, 0.158, 0.121), (1138, 2209, 7623, 8803, 9408, 9574)),
    "LSTM C": ((2.293, 2.298, 1.676, 0.798, 0.367, 0.266), (1135, 1163, 4444, 7595, 8739, 9313)),
}
MODELS = [  # layers, nonlinearity, percent, wall time and processor time in minutes and seconds
    ("RNN A", 1, "relu", 92.12, (1, 23), None),
    ("RNN B", 2, "relu", 63.44, (2, 2), None),
    ("RNN C", 2, "tanh", 95.14, (1, 47), None),
    ("LSTM A", 1, None, 96.37, (1, 11), (5, 16)),
    ("LSTM B", 2, None, 95.74, (1, 32), (7, 24)),
    ("LSTM C", 3, None, 93.14, (1, 58), (9, 56)),  # its log ends with 93.13
]


@pytest.mark.parametrize("model", LOG)
def test_report_log(model):
    frame = pd.read_csv(experiments.RESULTS / "report_log.csv")
    assert list(frame) == ["model", "iteration", "loss", "accuracy"]
    assert list(frame["model"]) == [name for name in LOG for _ in range(6)]
    losses, right = LOG[model]
    frame = frame[frame["model"] == model]
    assert list(frame["iteration"]) == [500, 1000, 1500, 2000, 2500, 3000]
    np.testing.assert_allclose(frame["loss"], losses, rtol=0, atol=0.00051)
    np.testing.assert_allclose(10_000 * frame["accuracy"], right, rtol=0, atol=1e-6)


def test_report_models():
    frame = pd.read_csv(experiments.RESULTS / "report_models.csv").astype(object)
    columns = ["model", "layers", "nonlinearity", "accuracy", "wall_seconds", "cpu_seconds"]
    assert list(frame) == columns
    seconds = [[None if time is None else 60 * time[0] + time[1] for time in row[4:]] for row in MODELS]
    expected = [
        [*row[:3], round(row[3] / 100, 4), *times] for row, times in zip(MODELS, seconds, strict=True)
    ]
    assert frame.where(frame.notna(), None).to_numpy().tolist() == expected


def test_both_tables_name_the_models_of_the_experiments():
    for table in ("report_log", "report_models"):
        names = pd.read_csv(experiments.RESULTS / f"{table}.csv")["model"]
        assert set(names) <= set(experiments.MODELS)


def test_lesson_09_shows_the_numbers_of_the_report():
    first = notebook.read(notebook.find("09_rnn_mnist")).cells[0].source
    for _, _, _, percent, (minutes, seconds), _ in MODELS[:3]:
        assert f"{percent:.2f} %" in first
        assert f"{minutes} min {seconds} s" in first
