"""Figures, sounds and sliders of a lesson, with a text for those who cannot see them."""

import base64
import html
import io
import os
import wave
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import HTML, display

from labutils.conventions import COLOURS, MARKERS

STYLE = {
    "figure.dpi": 80,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "font.size": 11,
    "legend.frameon": False,
    "image.cmap": "gray_r",
}


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

    Raises
    ------
    ValueError
        If the images have another shape, or there are none.
    """
    images = _as_images(images)
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


def mosaic(ax, images, n_columns=None, limit=None):
    """Draw filters side by side on one sheet, from blue (negative) over white (zero) to red.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Its ticks and frame are taken off.
    images : array-like, shape (n, side, side) or (n, side ** 2)
    n_columns : int, optional
        As many as rows, if not given.
    limit : float, optional
        Value that is drawn in full colour; if not given, each image is scaled by its own largest absolute value.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the images have another shape, or there are none.
    """
    images = _as_images(images)
    n_columns = n_columns or round(len(images) ** 0.5)
    scale = limit or np.abs(images).max(axis=(1, 2), keepdims=True)
    tiles = images / np.where(scale == 0, 1.0, scale)
    missing = -len(tiles) % n_columns
    tiles = np.pad(tiles, [(0, missing), (0, 1), (0, 1)], constant_values=np.nan)  # a gap between them
    tiles[len(tiles) - missing :] = np.nan
    n_rows, (height, width) = len(tiles) // n_columns, tiles.shape[1:]
    sheet = tiles.reshape(n_rows, n_columns, height, width).transpose(0, 2, 1, 3)
    sheet = sheet.reshape(n_rows * height, n_columns * width)[:-1, :-1]
    ax.imshow(sheet, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def label_rows(figure, labels, **style):
    """Write a label to the left of each row of a figure of axes in a grid, as `image_grid` gives.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    labels : sequence of str
        One for each row.
    **style
        Passed to ``ax.text``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are not as many labels as rows.
    """
    first = [ax for ax in figure.axes if ax.get_subplotspec().is_first_col()]
    if len(first) != len(labels):
        raise ValueError(f"a figure of {len(first)} rows needs as many labels, got {len(labels)}")
    for ax, label in zip(first, labels, strict=True):
        settings = {"va": "center", "ha": "right", "transform": ax.transAxes} | style
        ax.text(-0.15, 0.5, label, **settings)
    return figure


def log_ticks(axis, ticks):
    """Set the ticks of a logarithmic axis, written as plain numbers, and no others.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
        ``ax.xaxis`` or ``ax.yaxis``.
    ticks : sequence of float
    """
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


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


def _as_images(images):
    """Images of shape (n, side, side) from that or flat ones."""
    images = np.asarray(images, dtype=float)
    side = round(images.shape[-1] ** 0.5) if images.ndim == 2 else 0
    if side and side**2 == images.shape[1]:
        images = images.reshape(len(images), side, side)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(
            f"images must have the shape (n, side, side) or (n, side ** 2), at least one, got {images.shape}"
        )
    return images


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
