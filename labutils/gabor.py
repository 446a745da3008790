"""Gabor functions: how well one describes a filter, and with which orientation, frequency, phase and place."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

_STARTS = 3  # peaks of the filter's spectrum from which a fit begins
_SHORTEST, _WIDEST = 0.5, 2.0  # limits of the envelope: pixels, and multiples of the filter's side


@dataclass(frozen=True, eq=False)
class GaborFits:
    """Gabor functions fitted to filters, one entry a filter.

    Attributes
    ----------
    r2 : numpy.ndarray, shape (n,)
        Share of a filter's sum of squares that the function explains, from 0 to 1.
    orientation : numpy.ndarray, shape (n,)
        Direction in which the wave varies, in radians from 0 to pi, counted from the x axis towards the y
        axis (which points down, as in an image). Its stripes run at right angles to it.
    frequency : numpy.ndarray, shape (n,)
        In cycles per pixel.
    phase : numpy.ndarray, shape (n,)
        Of the cosine at the envelope's centre, in radians from -pi to pi.
    centre : numpy.ndarray, shape (n, 2)
        Of the envelope, x and y in pixels.
    width : numpy.ndarray, shape (n, 2)
        Standard deviations of the envelope in pixels, along the wave and along its stripes.
    fitted : numpy.ndarray, shape (n, side, side)
        The functions themselves.
    """

    r2: np.ndarray
    orientation: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray
    centre: np.ndarray
    width: np.ndarray
    fitted: np.ndarray


def fit_gabor(filters):
    """Fit a Gabor function to each filter, by least squares.

    A Gabor function is a wave under a Gaussian envelope, exp(-u^2 / 2 s_u^2 - v^2 / 2 s_v^2) cos(2 pi f u +
    phase), with u along the wave and v along its stripes (Daugman, J. Opt. Soc. Am. A 2:1160, 1985).

    Parameters
    ----------
    filters : array-like, shape (n, side, side) or (n, side ** 2)

    Returns
    -------
    GaborFits

    Raises
    ------
    ValueError
        If the filters are not square, not finite, or one of them is zero everywhere.
    """
    filters = _as_squares(filters)
    side = filters.shape[-1]
    y, x = np.mgrid[:side, :side].astype(float)
    results = [_fit_one(image, x, y) for image in filters]
    columns = [np.array(column) for column in zip(*results, strict=True)]
    return GaborFits(*columns)


def _as_squares(filters):
    filters = np.asarray(filters, dtype=float)
    if filters.ndim == 2:
        side = round(filters.shape[1] ** 0.5)
        if side**2 == filters.shape[1]:
            filters = filters.reshape(-1, side, side)
    if filters.ndim != 3 or filters.shape[1] != filters.shape[2] or filters.shape[1] < 4 or not len(filters):
        raise ValueError(
            f"filters must have the shape (n, side, side) or (n, side ** 2), with a side of at least 4, "
            f"got {filters.shape}"
        )
    if not np.isfinite(filters).all():
        raise ValueError("filters must be finite, got nan or infinity")
    empty = np.flatnonzero(~filters.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"filters must not be zero everywhere, but number {empty[0]} is")
    return filters


def _fit_one(image, x, y):
    image_norm = np.linalg.norm(image)
    target = (image / image_norm).ravel()
    side = len(image)
    lowest = [-0.5, -0.5, np.log(_SHORTEST), np.log(_SHORTEST), -0.5, -0.5]
    highest = [side - 0.5, side - 0.5, np.log(_WIDEST * side), np.log(_WIDEST * side), 0.5, 0.5]

    def residual(parameters):
        waves = _waves(parameters, x, y)
        amplitudes = _amplitudes(waves, target)
        return target - waves @ amplitudes

    fits = [
        least_squares(residual, np.clip(start, lowest, highest), bounds=(lowest, highest), max_nfev=60)
        for start in _starts(image, x, y)
    ]
    best = min(fits, key=lambda fit: fit.cost).x
    waves = _waves(best, x, y)
    in_phase, quadrature = _amplitudes(waves, target)
    fitted = waves @ [in_phase, quadrature]
    centre_x, centre_y, log_u, log_v, f_x, f_y = best
    phase = np.arctan2(-quadrature, in_phase)
    orientation = np.arctan2(f_y, f_x)
    if not 0 <= orientation < np.pi:  # the same wave, counted in the other direction
        orientation, phase = orientation % np.pi, -phase
    r2 = 1 - np.sum((target - fitted) ** 2)
    width = np.exp([log_u, log_v])
    fitted = image_norm * fitted.reshape(side, side)
    return r2, orientation, np.hypot(f_x, f_y), phase, [centre_x, centre_y], width, fitted


def _waves(parameters, x, y):
    """Cosine and sine under the envelope, as two columns."""
    centre_x, centre_y, log_u, log_v, f_x, f_y = parameters
    dx, dy = (x - centre_x).ravel(), (y - centre_y).ravel()
    angle = np.arctan2(f_y, f_x)
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = -np.sin(angle) * dx + np.cos(angle) * dy
    envelope = np.exp(-0.5 * (u / np.exp(log_u)) ** 2 - 0.5 * (v / np.exp(log_v)) ** 2)
    argument = 2 * np.pi * (f_x * dx + f_y * dy)
    return np.column_stack([envelope * np.cos(argument), envelope * np.sin(argument)])


def _amplitudes(waves, target):
    """Best weights of the two waves; a little ridge where one of them vanishes (frequency 0)."""
    gram = waves.T @ waves
    return np.linalg.solve(gram + 1e-12 * (np.trace(gram) + 1e-300) * np.eye(2), waves.T @ target)


def _starts(image, x, y):
    """Guesses: the envelope from the filter's energy, the wave from the peaks of its spectrum."""
    energy = image**2 / np.sum(image**2)
    centre = np.sum(energy * x), np.sum(energy * y)
    spread = np.sqrt(np.sum(energy * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)) / 2)
    log_width = np.log(max(spread, 1.0))
    size = 4 * len(image)  # padded with zeros, for a finer grid of frequencies
    spectrum = np.abs(np.fft.rfft2(image, (size, size)))
    f_y, f_x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    starts = []
    for _ in range(_STARTS):
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        peak = f_x[column], f_y[row, 0]
        starts.append([*centre, log_width, log_width, *peak])
        near = np.hypot(f_x - peak[0], f_y - peak[1]) < 1.0 / len(image)
        spectrum = np.where(near, 0, spectrum)
    return starts
