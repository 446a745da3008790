"""What a notebook cell calls: set-up, parameter checks, figures, records, bands and exercise checks."""

import ast
import base64
import difflib
import html
import inspect
import io
import json
import math
import numbers
import os
import platform
import subprocess
import sys
import wave
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import threadpoolctl
import torch
from cycler import cycler
from IPython.display import HTML, display

from labutils import __version__

RECORD_TYPE = "application/x-labutils+json"

# Okabe and Ito's colours, told apart by colour-blind readers, each with a marker of its own. Violet and brown stand
# for their sky blue and orange, whose contrast to white is below the 3:1 that lines need.
STYLE = {
    "figure.dpi": 80,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9933FF", "#A34729", "#000000"]
    )
    + cycler(marker=["o", "s", "^", "D", "v", "P", "X"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "font.size": 11,
    "legend.frameon": False,
    "image.cmap": "gray_r",
}

_parameters = {}  # what check_parameters found, for `record`
_said = []  # what check_exercise said last, for `require_right`


def setup(seed):
    """Prepare a notebook: one thread, the course's figure style, torch's generator seeded.

    One thread a kernel: two kernels with two threads each on two cores were several times slower than with
    one each, and one thread also keeps results the same from run to run.

    Parameters
    ----------
    seed : int
        Seed of torch's global generator, which draws initial weights.
    """
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    torch.manual_seed(seed)
    plt.rcParams.update(STYLE)


def check_parameters(**rules):
    """Refuse unknown parameter names, wrong types and values out of range.

    Call it in the cell after the notebook's parameters cell, with one rule for each parameter. The rules
    must be literals, because the runner reads them from the page and checks before a kernel starts.

    Parameters
    ----------
    **rules
        For each parameter ``(int, lowest, highest)``, ``(float, lowest, highest)``, a tuple of the allowed
        strings, or ``bool``.

    Raises
    ------
    ValueError
        In one sentence: the name, the value and what is allowed.
    """
    namespace = inspect.currentframe().f_back.f_globals
    for name in _injected_names(namespace.get("In", [])):
        check_name(name, rules)
    for name, rule in rules.items():
        if name not in namespace:
            raise ValueError(f"parameter {name!r} is not set; run the parameters cell first")
        check_value(name, namespace[name], rule)
    _parameters.clear()
    _parameters.update({name: namespace[name] for name in rules})


def check_name(name, known):
    """Refuse a parameter name that is not among `known`, suggesting the nearest one."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ValueError(f"unknown parameter {name!r}; {hint}")


def check_value(name, value, rule):
    """Refuse a value that does not keep its rule; `check_parameters` says what a rule is."""
    if rule is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
    elif isinstance(rule[0], str):
        if value not in rule:
            raise ValueError(f"{name} must be one of {', '.join(rule)}, got {value!r}")
    else:
        kind, lowest, highest = rule
        word = {int: "a whole number", float: "a number"}[kind]
        allowed = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ValueError(f"{name} must be {word} from {lowest} to {highest}, got {value!r}")
        if not lowest <= value <= highest:  # also refuses nan
            raise ValueError(f"{name} must be from {lowest} to {highest}, got {value!r}")


def show(figure, alt, save_as=None):
    """Display a figure with a text for those who cannot see it, and close it.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    alt : str
        A sentence that says what is to be seen.
    save_as : str, optional
        File name without ending. When the committed outputs are made (``make outputs``), the figure is also
        written to the project's ``figures`` folder.
    """
    if not isinstance(alt, str) or len(alt.split()) < 4:
        raise ValueError(f"alt must be a sentence that says what is to be seen, got {alt!r}")
    display(figure, metadata={"image/png": {"alt": alt}})
    folder = os.environ.get("LABUTILS_FIGURES")
    if folder and save_as:
        figure.savefig(Path(folder) / f"{save_as}.png", metadata={"Software": None})
    plt.close(figure)


def image_grid(images, n_columns=10, *, titles=None, symmetric=False, width=9.0):
    """Figure of small square images in a grid.

    Parameters
    ----------
    images : array-like, shape (n, side, side) or (n, side ** 2)
    n_columns : int
    titles : sequence of str, optional
        One above each image.
    symmetric : bool
        Whether values have a sign (filters, components): each image is then scaled by its own largest
        absolute value, and drawn from blue (negative) over white (zero) to red.
    width : float
        Of the figure, in inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    images = np.asarray(images, dtype=float)
    if images.ndim == 2 and round(images.shape[1] ** 0.5) ** 2 == images.shape[1]:
        images = images.reshape(len(images), round(images.shape[1] ** 0.5), -1)
    if images.ndim != 3:
        raise ValueError(f"images must have the shape (n, side, side) or (n, side ** 2), got {images.shape}")
    n_columns = min(n_columns, len(images))
    n_rows = -(-len(images) // n_columns)
    height = width / n_columns * n_rows * (1.0 if titles is None else 1.25)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(width, height), squeeze=False)
    for number, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if number >= len(images):
            continue
        image = images[number]
        if symmetric:
            limit = np.abs(image).max() or 1.0
            ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
        else:
            ax.imshow(image)
        if titles is not None:
            ax.set_title(titles[number], fontsize=9)
    return figure


def play(sounds, rate):
    """Display a row of players, one for each sound, with its name above it.

    Parameters
    ----------
    sounds : dict of str to array-like, shape (n_samples,)
        Each is centred and scaled to the same loudness.
    rate : int
        Samples per second.
    """
    players = []
    for name, sound in sounds.items():
        name = html.escape(name)
        players.append(
            f'<figure style="margin:0"><figcaption>{name}</figcaption>'
            f'<audio controls aria-label="{name}" style="width:13em" src="{_wav_address(sound, rate)}"></audio></figure>'
        )
    display(HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(players)}</div>'))


def slide(draw, **choices):
    """Let the reader move sliders that redraw a figure; without ipywidgets, draw it once.

    Parameters
    ----------
    draw : callable
        Called with one value of each choice by name; returns the figure and its alternative text.
    **choices
        For each argument of `draw` the list of its values; the middle one comes first.
    """
    start = {name: values[len(values) // 2] for name, values in choices.items()}
    try:
        import ipywidgets
    except ImportError:
        print("Sliders need the package ipywidgets (pip install ipywidgets); this is one position of them.")
        show(*draw(**start))
        return
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=values, value=start[name], description=name, continuous_update=False
        )
        for name, values in choices.items()
    }
    # Not ipywidgets.interact: its Output widget makes nbclient, and so papermill, hang now and then.
    picture = ipywidgets.HTML()

    def redraw(_):
        figure, alt = draw(**{name: slider.value for name, slider in sliders.items()})
        picture.value = _image_tag(figure, alt)

    for slider in sliders.values():
        slider.observe(redraw, "value")
    redraw(None)
    display(ipywidgets.VBox([*sliders.values(), picture]))


def record(**results):
    """Put results into the executed notebook, invisible on screen, for the runner to collect.

    Parameters, versions, git commit and hardware are added. Call it once for each row of the table that is
    to be collected.

    Parameters
    ----------
    **results
        Numbers, strings or lists of them; numpy's and torch's scalars are converted.
    """
    content = {"results": results, "parameters": dict(_parameters), "provenance": provenance()}
    content = json.loads(json.dumps(_plain(content), allow_nan=False))
    display({RECORD_TYPE: content}, raw=True)


def provenance():
    """Versions, git commit and hardware of this process, as a dict of plain values."""
    import sklearn

    versions = {"python": platform.python_version(), "labutils": __version__}
    versions |= {module.__name__: module.__version__ for module in (np, sklearn, torch)}
    versions["torch"] = str(torch.__version__)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": versions,
        "commit": _git_commit(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def expect(name, value, *, at_least=-math.inf, at_most=math.inf, when=True):
    """Assert that a result lies in the band that several seeds gave, in runs that are long enough.

    Parameters
    ----------
    name : str
        What is asserted.
    value : float
    at_least, at_most : float
        The band, both ends included.
    when : bool
        Whether this run is the one that the band was measured for. If not, the line says so, and nothing
        is asserted.

    Raises
    ------
    AssertionError
        If the value lies outside the band.
    """
    if at_least == -math.inf and at_most == math.inf:
        raise ValueError(f"{name}: give at_least or at_most, or nothing is asserted")
    if at_most == math.inf:
        band = f"at least {at_least:g}"
    elif at_least == -math.inf:
        band = f"at most {at_most:g}"
    else:
        band = f"from {at_least:g} to {at_most:g}"
    if not when:
        print(f"{name}, expected {band}: not tested with these parameters")
        return
    if not at_least <= value <= at_most:
        raise AssertionError(f"{name} should be {band}, got {value:.6g}")
    print(f"{name}, expected {band}: holds")


def check_exercise(answer, expected, *, mistakes=(), rtol=1e-5, atol=1e-8):
    """Tell at once whether an exercise is right, and if not, what kind of mistake it is.

    Parameters
    ----------
    answer : number, str, array, tensor, or list of numbers
        The student's; None (also anywhere in a list) counts as not done yet.
    expected : the same
        The right one.
    mistakes : list of (wrong answer, str)
        Plausible wrong answers, and what to say about each.
    rtol, atol : float
        Tolerances, as in `numpy.allclose`.

    Prints "not done yet", "right", or "wrong: " and why.
    """
    _said[:] = [_feedback(answer, expected, mistakes, rtol, atol)]
    print(*_said)


def require_right():
    """Raise unless the check just before said "right"; for graders, who see only whether a cell raises.

    Raises
    ------
    AssertionError
        With what the check said.
    """
    said = _said.pop() if _said else "not done yet, or not in the form that was asked for"
    if said != "right":
        raise AssertionError(said)


def _feedback(answer, expected, mistakes, rtol, atol):
    if _has_gap(answer):
        return "not done yet"
    if isinstance(expected, str):
        if not isinstance(answer, str):
            return f"wrong: a word is needed, got {answer!r}"
        given = answer.strip().lower()
        if given == expected.strip().lower():
            return "right"
        said = [message for wrong, message in mistakes if given == wrong.strip().lower()]
        return f"wrong: {said[0] if said else f'{answer!r} is not the answer'}"
    if isinstance(answer, str):
        return f"wrong: a number is needed, got {answer!r}"
    try:
        answer, expected = _as_array(answer), _as_array(expected)
    except (TypeError, ValueError):
        return f"wrong: numbers are needed, got {type(answer).__name__}"
    return _compare(answer, expected, mistakes, rtol, atol)


def _compare(answer, expected, mistakes, rtol, atol):
    def same(a, b):
        return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=atol)

    if same(answer, expected):
        return "right"
    for wrong, message in mistakes:
        if same(answer, _as_array(wrong)):
            return f"wrong: {message}"
    if answer.shape != expected.shape:
        if expected.shape == ():
            return f"wrong: one number is needed, got {answer.size} in a list or array"
        hint = "; transpose it" if same(answer.T, expected) else ""
        return f"wrong: the shape should be {expected.shape}, got {answer.shape}{hint}"
    if not np.isfinite(answer).all():
        return "wrong: it contains nan or infinity"
    if same(-answer, expected):
        return "wrong: the sign is reversed"
    used = expected != 0
    if used.any():
        factor = (answer[used] / expected[used]).flat[0]
        if factor != 0 and expected.size > 1 and same(answer, factor * expected):
            return f"wrong: off by the factor {factor:.4g}"
    if np.allclose(np.abs(answer - expected), 1, rtol=0, atol=atol):
        return "wrong: off by one"
    at = np.unravel_index(np.abs(answer - expected).argmax(), answer.shape)
    place = f" at {tuple(int(i) for i in at)}" if at else ""
    return f"wrong: {answer[at]:.6g} is too {'large' if answer[at] > expected[at] else 'small'}{place}"


def _has_gap(answer):
    if isinstance(answer, np.ndarray) and answer.dtype == object:
        answer = answer.tolist()
    if isinstance(answer, list | tuple):
        return any(_has_gap(item) for item in answer)
    return answer is None or answer is ...


def _image_tag(figure, alt):
    """A figure as an HTML image; closes the figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{content}">'


def _wav_address(sound, rate):
    """A sound as 8-bit WAV, in a data address."""
    sound = np.asarray(sound, dtype=float) - np.mean(sound)
    scaled = sound / (4 * sound.std() or 1.0)  # peaks beyond four standard deviations are cut
    samples = np.round(127.5 + 127 * np.clip(scaled, -1, 1)).astype(np.uint8)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(1)
        wav.setframerate(rate)
        wav.writeframes(samples.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


def _as_array(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=float)


def _injected_names(history):
    """Names assigned in the cell that papermill injected, if it did."""
    injected = [source for source in history if source.startswith("# Parameters\n")]
    statements = ast.parse(injected[-1]).body if injected else []
    targets = [target for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _plain(value):
    """Convert to what JSON has; a number that is not finite becomes its name."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _git_commit():
    """Commit of the working tree that this package lies in, with "+changes" if it has any; None without git."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _cpu_name():
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
