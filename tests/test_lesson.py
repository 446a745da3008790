"""What a notebook cell calls: set-up, parameters, figures, records, bands, exercise checks."""

import base64
import io
import json
import math
import sys
import wave
from types import FunctionType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output
from traitlets.config import Config

from labutils import __version__, lesson

matplotlib.use("agg")


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """An IPython session with a real `In`, as a notebook's kernel has, that shows figures as PNG."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    shell = InteractiveShell.instance(config=config)
    shell.display_formatter.active_types = ["text/plain", "text/html", "image/png"]
    select_figure_formats(shell, {"png"})
    shell.run_cell("from labutils.lesson import *", store_history=True)
    yield shell
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def run_cells(shell, *cells):
    """Run cells one after the other; returns the last one's error, if any."""
    with capture_output():
        for cell in cells:
            result = shell.run_cell(cell, store_history=True)
    return result.error_in_exec


# --- set-up ---------------------------------------------------------------------------------------------


def test_setup_seeds_torch_and_takes_one_thread():
    with matplotlib.rc_context():
        lesson.setup(5)
        drawn = torch.rand(3)
        assert torch.get_num_threads() == 1
        assert plt.rcParams["axes.spines.top"] is False
        lesson.setup(5)
        assert torch.equal(torch.rand(3), drawn)
        lesson.setup(6)
        assert not torch.equal(torch.rand(3), drawn)


def test_style_gives_each_line_a_colour_and_a_marker_of_its_own():
    styles = list(lesson.STYLE["axes.prop_cycle"])
    assert len({style["color"] for style in styles}) == len(styles) == 7
    assert len({style["marker"] for style in styles}) == 7


# --- parameters -----------------------------------------------------------------------------------------

RULES = (
    "check_parameters(n_iters=(int, 1, 10000), rate=(float, 0.0, 1.0), "
    "dataset=('mnist', 'mnist-mini'), fast=bool)"
)
GOOD = {"n_iters": 300, "rate": 0.1, "dataset": "mnist", "fast": False}


def check(**changes):
    """Run the check in a namespace of its own, as a cell would."""
    namespace = {"check_parameters": lesson.check_parameters, **GOOD, **changes}
    namespace = {name: value for name, value in namespace.items() if value is not ...}
    FunctionType(compile(RULES, "cell", "exec"), namespace)()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_iters": 1},
        {"n_iters": 10_000},
        {"rate": 0.0},
        {"rate": 1},  # a whole number is a number
        {"dataset": "mnist-mini"},
        {"fast": True},
    ],
)
def test_good_parameters_pass(changes):
    check(**changes)
    assert lesson.parameters.values() == {**GOOD, **changes}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_iters", 0, "n_iters must be from 1 to 10000, got 0"),
        ("n_iters", 10_001, "n_iters must be from 1 to 10000, got 10001"),
        ("n_iters", 3.0, "n_iters must be a whole number from 1 to 10000, got 3.0"),
        ("n_iters", True, "n_iters must be a whole number from 1 to 10000, got True"),
        ("n_iters", "300", "n_iters must be a whole number from 1 to 10000, got '300'"),
        ("n_iters", None, "n_iters must be a whole number from 1 to 10000, got None"),
        ("n_iters", math.nan, "n_iters must be a whole number from 1 to 10000, got nan"),
        ("rate", -0.1, "rate must be from 0.0 to 1.0, got -0.1"),
        ("rate", 1.5, "rate must be from 0.0 to 1.0, got 1.5"),
        ("rate", math.nan, "rate must be from 0.0 to 1.0, got nan"),
        ("rate", math.inf, "rate must be from 0.0 to 1.0, got inf"),
        ("rate", True, "rate must be a number from 0.0 to 1.0, got True"),
        ("rate", "0.1", "rate must be a number from 0.0 to 1.0, got '0.1'"),
        ("dataset", "mnst", "dataset must be one of mnist, mnist-mini, got 'mnst'"),
        ("dataset", 1, "dataset must be one of mnist, mnist-mini, got 1"),
        ("fast", 1, "fast must be true or false, got 1"),
        ("fast", "yes", "fast must be true or false, got 'yes'"),
        ("fast", ..., "parameter 'fast' is not set; run the parameters cell first"),
    ],
)
def test_bad_parameter_is_refused_in_one_sentence(name, value, message):
    check()
    with pytest.raises(ValueError, match=name) as caught:
        check(**{name: value})
    assert str(caught.value) == message
    assert lesson.parameters.values() == GOOD  # those of the last good check


DEFAULTS = "n_iters: int = 300\nseed: int = 0"
SHORT_RULES = "check_parameters(n_iters=(int, 1, 1000), seed=(int, 0, 99))"


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("n_iter = 5", "unknown parameter 'n_iter'; did you mean 'n_iters'?"),
        ("seed = 1\nsede = 2", "unknown parameter 'sede'; did you mean 'seed'?"),
        ("zzz = 5", "unknown parameter 'zzz'; known are n_iters, seed"),
        ("n_iters = 5000", "n_iters must be from 1 to 1000, got 5000"),
    ],
)
def test_injected_parameters_are_refused(shell, injected, message):
    error = run_cells(shell, DEFAULTS, f"# Parameters\n{injected}\n", SHORT_RULES)
    assert isinstance(error, ValueError)
    assert str(error) == message


@pytest.mark.parametrize(
    "cells",
    [
        [],
        ["# Parameters\nn_iters = 5\nseed = 3\n"],
        ["other = 1"],  # a cell that nobody injected may set what it likes
        ["# Parameters\nsede = 1\n", "# Parameters\nseed = 1\n"],  # corrected and run again
    ],
)
def test_session_with_good_parameters_passes(shell, cells):
    assert run_cells(shell, DEFAULTS, *cells, SHORT_RULES) is None


def test_check_takes_the_injected_values(shell):
    run_cells(shell, DEFAULTS, "# Parameters\nn_iters = 5\n", SHORT_RULES)
    assert lesson.parameters.values() == {"n_iters": 5, "seed": 0}


WITH_DEFAULTS = (
    "check_parameters(n_iters=(int, 1, 1000, 300), kind=('a', 'b'), fast=(bool, True), seed=(int, 0, 99, 0))"
)


@pytest.mark.parametrize(
    ("changed", "names", "expected"),
    [
        ({}, (), True),
        ({"seed": 5}, (), True),  # bands are measured over seeds
        ({"seed": 5}, ("seed",), False),
        ({"n_iters": 5}, (), False),
        ({"n_iters": 5}, ("kind", "fast"), True),
        ({"kind": "b"}, ("kind",), False),
        ({"fast": False}, (), False),
    ],
)
def test_at_defaults_compares_with_the_page(changed, names, expected):
    namespace = {
        "check_parameters": lesson.check_parameters,
        "n_iters": 300,
        "kind": "a",
        "fast": True,
        "seed": 0,
    }
    FunctionType(compile(WITH_DEFAULTS, "cell", "exec"), namespace | changed)()
    assert lesson.at_defaults(*names) is expected


def test_at_defaults_needs_defaults_and_known_names():
    check()
    with pytest.raises(ValueError, match="the rule of n_iters must say its default, as in"):
        lesson.at_defaults()
    with pytest.raises(ValueError, match="unknown parameter 'n_iter'; did you mean 'n_iters'"):
        lesson.at_defaults("n_iter")


# --- figures --------------------------------------------------------------------------------------------

ALT = "A straight line rises from left to right."


def figure():
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    return fig


def shown(**settings):
    fig = figure()
    with capture_output() as captured:
        lesson.show(fig, **settings)
    assert not plt.fignum_exists(fig.number)
    (output,) = captured.outputs
    return output


def test_show_gives_the_alternative_text(shell):
    output = shown(alt=ALT)
    assert output.metadata["image/png"]["alt"] == ALT
    assert "image/png" in output.data


@pytest.mark.parametrize("alt", ["", "plot", "a short plot", "   "])
def test_show_refuses_what_is_no_sentence(shell, alt):
    fig = figure()
    with capture_output() as captured, pytest.raises(ValueError, match="alt must be a sentence") as caught:
        lesson.show(fig, alt)
    assert repr(alt) in str(caught.value)
    assert captured.outputs == []
    plt.close(fig)


def test_show_saves_where_the_environment_says(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_FIGURES", str(tmp_path))
    shown(alt=ALT, save_as="line")
    content = (tmp_path / "line.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert b"Software" not in content
    (tmp_path / "line.png").unlink()
    shown(alt=ALT)
    assert list(tmp_path.glob("*.png")) == []


def test_show_saves_nothing_unless_asked(shell, tmp_path, monkeypatch):
    monkeypatch.delenv("LABUTILS_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    shown(alt=ALT, save_as="line")
    assert list(tmp_path.rglob("*.png")) == []


# --- records --------------------------------------------------------------------------------------------


def recorded(**results):
    with capture_output() as captured:
        lesson.record(**results)
    assert captured.stdout == ""
    (output,) = captured.outputs
    assert list(output.data) == ["application/x-labutils+json"]
    content = output.data["application/x-labutils+json"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    return content


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3),
        (0.25, 0.25),
        (True, True),
        (None, None),
        ("LSTM", "LSTM"),
        ([1, 2.5, "x"], [1, 2.5, "x"]),
        ((1, 2), [1, 2]),
        ({1: np.float32(0.5)}, {"1": 0.5}),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([1, 2]), [1, 2]),
        ([torch.tensor(4), np.int8(5)], [4, 5]),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.array([1.0, math.nan]), [1.0, "nan"]),
        (torch.tensor(math.inf), "inf"),
        (np.float32("nan"), "nan"),
    ],
)
def test_record_is_plain_json(shell, value, plain):
    found = recorded(score=value)["results"]["score"]
    assert found == plain
    assert type(found) is type(plain)


def test_record_has_parameters_and_provenance(shell):
    check(n_iters=7)
    content = recorded(accuracy=0.5)
    assert sorted(content) == ["parameters", "provenance", "results"]
    assert content["parameters"] == {**GOOD, "n_iters": 7}
    provenance = content["provenance"]
    assert sorted(provenance) == ["commit", "cores", "cpu", "gpu", "versions"]
    assert sorted(provenance["versions"]) == ["labutils", "numpy", "python", "sklearn", "torch"]
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["versions"]["labutils"] == __version__
    assert provenance["cores"] >= 1
    assert provenance["cpu"]


def test_provenance_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lesson.provenance()["commit"] is None


@pytest.mark.parametrize("name", ["cpu", "commit", "file", "notebook", "run_seconds", "versions"])
def test_a_record_refuses_a_name_that_the_table_needs(name):
    with pytest.raises(ValueError, match=f"{name} is the name of what a record says of its origin"):
        lesson.record(**{name: 1})


def test_a_record_refuses_the_name_of_a_parameter():
    check()
    with pytest.raises(
        ValueError, match="rate is the name of a parameter; record the result under another name"
    ):
        lesson.record(rate=0.5)


# --- bands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "band", "words"),
    [
        (0.97, {"at_least": 0.97}, "at least 0.97"),
        (3, {"at_most": 3}, "at most 3"),
        (0.5, {"at_least": 0.25, "at_most": 0.75}, "from 0.25 to 0.75"),
        (torch.tensor(0.5), {"at_least": 0.25}, "at least 0.25"),
    ],
)
def test_expect_holds(value, band, words, capsys):
    lesson.expect("the accuracy", value, **band)
    assert capsys.readouterr().out == f"the accuracy: {float(value):.4g}, expected {words}\n"


@pytest.mark.parametrize(
    ("value", "band", "message"),
    [
        (0.9, {"at_least": 0.97}, "the accuracy should be at least 0.97, got 0.9"),
        (4, {"at_most": 3}, "the accuracy should be at most 3, got 4"),
        (0.8, {"at_least": 0.25, "at_most": 0.75}, "the accuracy should be from 0.25 to 0.75, got 0.8"),
        (0.2, {"at_least": 0.25, "at_most": 0.75}, "the accuracy should be from 0.25 to 0.75, got 0.2"),
        (math.nan, {"at_least": 0.97}, "the accuracy should be at least 0.97, got nan"),
    ],
)
def test_expect_fails(value, band, message, capsys):
    with pytest.raises(AssertionError) as caught:
        lesson.expect("the accuracy", value, **band)
    assert str(caught.value) == message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [0.99, 0.1, math.nan])
def test_expect_says_when_it_tests_nothing(value, capsys):
    lesson.expect("the accuracy", value, at_least=0.97, when=False)
    assert capsys.readouterr().out == (
        "the accuracy, expected at least 0.97: not tested with these parameters\n"
    )


# --- exercises ------------------------------------------------------------------------------------------

MATRIX = [[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]]
TRANSPOSED = np.array(MATRIX).T


def said(capsys, answer, expected, **settings):
    lesson.check_exercise(answer, expected, **settings)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return out.rstrip("\n")


@pytest.mark.parametrize("answer", [None, ..., [None, None], [1.0, None], (None, 2)])
@pytest.mark.parametrize("expected", [3.0, "ICA", [1.0, 2.0]])
def test_exercise_not_done_yet(answer, expected, capsys):
    assert said(capsys, answer, expected) == "not done yet"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3, 3.0),
        (0, 0),
        (0.1 + 0.2, 0.3),
        ([1, 2], (1.0, 2.0)),
        (MATRIX, torch.tensor(MATRIX)),
        (torch.tensor(MATRIX, requires_grad=True), np.array(MATRIX)),
        (np.float32(0.1), 0.1),
        ("ICA", "ICA"),
        (" ica ", "ICA"),
    ],
)
def test_exercise_right(answer, expected, capsys):
    assert said(capsys, answer, expected) == "right"


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (-3.5, 3.5, "the sign is reversed"),
        ([-1.0, 2.0], [1.0, -2.0], "the sign is reversed"),
        ([2.0, 4.0, 0.0], [1.0, 2.0, 0.0], "off by the factor 2"),
        (np.array(MATRIX) / 4, MATRIX, "off by the factor 0.25"),
        ([-3.0, -6.0], [1.0, 2.0], "off by the factor -3"),
        (4, 3, "off by one"),
        (2, 3, "off by one"),
        ([2, 3, 6], [1, 2, 5], "off by one"),
        (1, 0, "off by one"),
        ([1, 2, 3], [1, 2], "the shape should be (2,), got (3,)"),
        (3.0, [3.0], "the shape should be (1,), got ()"),
        ([3.0], 3.0, "one number is needed, got 1 in a list or array"),
        (TRANSPOSED, MATRIX, "the shape should be (2, 3), got (3, 2); transpose it"),
        (2 * TRANSPOSED, MATRIX, "the shape should be (2, 3), got (3, 2)"),
        (math.nan, 3.0, "it contains nan or infinity"),
        ([1.0, math.inf], [1.0, 2.0], "it contains nan or infinity"),
        ("3.0", 3.0, "a number is needed, got '3.0'"),
        ([2, 4, 5], [1, 2, 0], "5 is too large at (2,)"),
        ([[1, 2], [3]], MATRIX, "numbers are needed, got list"),
        ({}, 3.0, "numbers are needed, got dict"),
        (7.0, 3.0, "7 is too large"),
        (0.5, 3.0, "0.5 is too small"),
        (0, 3.0, "0 is too small"),
        ([1.0, 2.0, 9.0], [1.0, 2.5, 3.0], "9 is too large at (2,)"),
        ([[1.0, 2.0, 3.0], [0.0, 5.0, 7.0]], MATRIX, "0 is too small at (1, 0)"),
        ("PCA", "ICA", "'PCA' is not the answer"),
        (3, "ICA", "a word is needed, got 3"),
    ],
)
def test_exercise_wrong(answer, expected, message, capsys):
    assert said(capsys, answer, expected) == f"wrong: {message}"


def test_exercise_knows_the_authors_mistakes(capsys):
    mistakes = [(8.0, "the bias is counted once; PyTorch has two"), ([1, 2], "that is a list")]
    assert said(capsys, 8, 12.0, mistakes=mistakes) == "wrong: the bias is counted once; PyTorch has two"
    assert said(capsys, torch.tensor([1, 2]), 12.0, mistakes=mistakes) == "wrong: that is a list"
    assert said(capsys, 12, 12.0, mistakes=mistakes) == "right"
    assert said(capsys, 9.5, 12.0, mistakes=mistakes) == "wrong: 9.5 is too small"
    words = [("PCA", "PCA only decorrelates")]
    assert said(capsys, " PCA", "ICA", mistakes=words) == "wrong: PCA only decorrelates"
    assert said(capsys, "SFA", "ICA", mistakes=words) == "wrong: 'SFA' is not the answer"


def test_exercise_tolerance(capsys):
    assert said(capsys, 3.01, 3.0) == "wrong: 3.01 is too large"
    assert said(capsys, 3.01, 3.0, rtol=0.01) == "right"
    assert said(capsys, 3.01, 3.0, rtol=0, atol=0.02) == "right"


@pytest.mark.parametrize("answer", [[[None, 1.0]], np.array([None, 1.0]), [1.0, ...]])
def test_gap_anywhere_in_an_answer_is_not_done_yet(answer, capsys):
    assert said(capsys, answer, [1.0, 1.0]) == "not done yet"


def test_authors_mistakes_for_words_ignore_case(capsys):
    assert (
        said(capsys, "PCA", "ica", mistakes=[("pca", "that one is Gaussian")])
        == "wrong: that one is Gaussian"
    )


def test_expect_without_a_band_is_refused():
    with pytest.raises(ValueError, match="give at_least or at_most"):
        lesson.expect("accuracy", 1.0)


# --- grids of images, players, sliders --------------------------------------------------------------------


def test_image_grid_has_one_axis_for_each_image_and_titles():
    figure = lesson.image_grid(np.random.default_rng(0).random((7, 16)), 4, titles=list("abcdefg"))
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == list("abcdefg")
    assert len(figure.axes) == 8
    assert shown[0].images[0].get_array().shape == (4, 4)
    plt.close(figure)


def test_signed_images_are_white_at_zero():
    figure = lesson.image_grid([[[-1.0, 0.0], [0.0, 4.0]], np.zeros((2, 2))], symmetric=True)
    drawn, empty = (ax.images[0] for ax in figure.axes)
    assert drawn.get_clim() == (-4, 4)
    assert empty.get_clim() == (-1, 1)
    plt.close(figure)


@pytest.mark.parametrize("images", [np.zeros(9), np.zeros((2, 8)), np.zeros((1, 2, 2, 3))])
def test_images_that_are_not_square_are_refused(images):
    with pytest.raises(ValueError, match="images must have the shape"):
        lesson.image_grid(images)


def test_players_carry_names_and_the_sound(shell):
    tone = 5 + 3 * np.sin(np.linspace(0, 40, 4000))
    with capture_output() as captured:
        lesson.play({"a <tone>": tone, "silence": np.zeros(10)}, rate=8000)
    page = BeautifulSoup(captured.outputs[0].data["text/html"], "html.parser")
    players = page.find_all("audio")
    assert [player["aria-label"] for player in players] == ["a <tone>", "silence"]
    assert [caption.text for caption in page.find_all("figcaption")] == ["a <tone>", "silence"]
    kind, _, content = players[0]["src"].partition(";base64,")
    assert kind == "data:audio/wav"
    with wave.open(io.BytesIO(base64.b64decode(content))) as file:
        assert file.getframerate() == 8000
        samples = np.frombuffer(file.readframes(file.getnframes()), np.uint8) - 127.5
    assert np.corrcoef(samples, tone)[0, 1] > 0.999
    assert abs(samples.mean()) < 1


@pytest.fixture
def drawn():
    """A function for `slide` that notes its calls."""
    calls = []

    def draw(**values):
        calls.append(values)
        return figure(), ALT

    draw.calls = calls
    return draw


def test_slider_starts_in_the_middle_and_redraws_when_moved(drawn, monkeypatch):
    displayed = []
    monkeypatch.setattr(lesson.figures, "display", displayed.append)
    lesson.slide(drawn, q=[1, 2, 5], angle=[0.0, 0.5])
    first, second, picture = displayed[0].children
    assert (first.description, second.description) == ("q", "angle")
    assert drawn.calls == [{"q": 2, "angle": 0.5}]
    image = BeautifulSoup(picture.value, "html.parser").img
    assert image["alt"] == ALT
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")
    first.value = 5
    assert drawn.calls[-1] == {"q": 5, "angle": 0.5}
    assert plt.get_fignums() == []


def test_without_ipywidgets_the_figure_is_drawn_once(shell, drawn, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with capture_output() as captured:
        lesson.slide(drawn, q=[1, 2, 5])
    assert drawn.calls == [{"q": 2}]
    assert "Sliders need the package ipywidgets" in captured.stdout
    assert any("image/png" in output.data for output in captured.outputs)


def test_mosaic_scales_each_image_and_leaves_gaps():
    images = np.array([[[1.0, -2.0], [0.0, 2.0]], [[5.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    figure, ax = plt.subplots()
    shown = lesson.mosaic(ax, images, 2).get_images()[0].get_array()
    gap = np.nan
    expected = [
        [0.5, -1, gap, 1, 0],
        [0, 1, gap, 0, 0],
        [gap] * 5,
        [0, 0, gap, gap, gap],
        [0, 0, gap, gap, gap],
    ]
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), expected)
    plt.close(figure)


def test_mosaic_of_flat_images_is_square_and_keeps_its_input():
    images = np.arange(16 * 9.0).reshape(16, 9)
    before = images.copy()
    figure, ax = plt.subplots()
    assert lesson.mosaic(ax, images).get_images()[0].get_array().shape == (15, 15)
    np.testing.assert_array_equal(images, before)
    plt.close(figure)


@pytest.mark.parametrize("images", [np.zeros((0, 3, 3)), np.zeros((2, 5)), np.zeros(4)])
def test_mosaic_and_grid_of_no_images_are_refused(images):
    with pytest.raises(ValueError, match="images must have the shape"):
        lesson.image_grid(images)
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match="images must have the shape"):
        lesson.mosaic(ax, images)
    plt.close(figure)


def test_rows_of_a_grid_are_labelled():
    figure = lesson.label_rows(lesson.image_grid(np.ones((6, 2, 2)), 3), ["one", "two"])
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [
        ["one"],
        [],
        [],
        ["two"],
        [],
        [],
    ]
    with pytest.raises(ValueError, match="a figure of 2 rows needs as many labels, got 3"):
        lesson.label_rows(figure, "abc")
    plt.close(figure)


def test_ticks_of_a_logarithmic_axis_are_plain_numbers():
    figure, ax = plt.subplots()
    ax.loglog([1, 300], [0.01, 3])
    lesson.log_ticks(ax.xaxis, [1, 30, 300])
    lesson.log_ticks(ax.yaxis, [0.01, 2.5])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "30", "300"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.01", "2.5"]
    assert len(ax.xaxis.get_minor_locator()()) == 0
    plt.close(figure)
