"""Videos made from a seed: a zebra walking to and fro, and a window wandering over a picture."""

import numpy as np

from labutils.data.photographs import as_picture
from labutils.rules import check_counts, check_numbers

_BODY = (  # ellipses of the zebra: centre and half-axes in pixels, from the middle of its body, downwards
    (0.0, 0.0, 9.0, 3.2),
    (9.0, -3.5, 2.2, 3.6),
    (11.5, -5.5, 2.8, 1.5),
    (-6.5, 5.0, 1.2, 3.5),
    (-3.5, 5.0, 1.2, 3.5),
    (4.0, 5.0, 1.2, 3.5),
    (7.0, 5.0, 1.2, 3.5),
)
_REACH = (9.0, 14.5)  # pixels of the zebra to the left and to the right of the middle of its body
_STRIPE = 5.0  # pixels from one black stripe to the next
_SHIFT = 0.78  # pixels by which the stripes are shifted, so that the zebra is as much black as white
_LARGEST_ZOOM = 1.4


def zebra_video(n_frames, *, width=64, speed=0.3, noise_std=0.05, seed=0):
    """A zebra walks to and fro in front of a field of its own mean grey.

    No pixel and no sum of pixels tells where the zebra is, since its stripes are as often black as white. Its
    velocity is a Gaussian process with a correlation time of 40 frames; at the ends of its path it turns round.

    Parameters
    ----------
    n_frames : int
    width : int
        Of a frame in pixels, at least 32. The height is 20.
    speed : float
        Standard deviation of the velocity, in pixels a frame.
    noise_std : float
        Of the Gaussian noise in each pixel, whose grey values go from 0 (black) to 1 (white).
    seed : int
        Seed of the walk and of the noise.

    Returns
    -------
    frames : numpy.ndarray, shape (n_frames, 20, width), float64
    position : numpy.ndarray, shape (n_frames,), float64
        Where the zebra is, from 0 (the left end of its path) to 1 (the right end).

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    check_counts(n_frames=n_frames)
    check_counts(at_least=32, width=width)
    check_numbers(at_least=0, speed=speed, noise_std=noise_std)
    rng = np.random.default_rng(seed)
    low, high = _REACH[0], width - 1 - _REACH[1]
    middle = _reflect(rng.uniform(low, high) + np.cumsum(_velocity(n_frames, speed, 40, rng)), low, high)
    x = np.arange(width) - middle[:, None, None]
    y = np.arange(20)[:, None] - 9.0
    outside = np.full((n_frames, 20, width), np.inf)  # below 1 inside the nearest ellipse, above outside
    for centre_x, centre_y, half_x, half_y in _BODY:
        ellipse = np.hypot((x - centre_x) / half_x, (y - centre_y) / half_y)
        np.minimum(outside, ellipse, out=outside)
    # The outline is softened by about a pixel, so that the picture changes smoothly as the zebra moves.
    zebra = 1 / (1 + np.exp(6 * (outside - 1)))
    frames = 0.5 + 0.5 * zebra * np.tanh(2 * np.cos(2 * np.pi * (x + _SHIFT) / _STRIPE))
    frames += noise_std * rng.standard_normal(frames.shape)
    return frames, (middle - low) / (high - low)


def moving_window(image, n_frames, size, *, speed=1.0, turning=0.03, zooming=0.01, smoothness=20, seed=0):
    """A square window wanders over a picture: it moves, turns and zooms smoothly, without a jump.

    The velocities are Gaussian processes. At the edge of the picture the window is reflected, and it zooms
    within a factor of 1.4.

    Parameters
    ----------
    image : array-like, shape (height, width)
    n_frames : int
    size : int
        Side of the window in pixels.
    speed, turning, zooming : float
        Standard deviations of the velocities: of each coordinate in pixels a frame, of the angle in radians a
        frame, of the logarithm of the magnification a frame.
    smoothness : float
        Correlation time of the velocities in frames.
    seed : int

    Returns
    -------
    numpy.ndarray, shape (n_frames, size, size), float64
        Consecutive frames, interpolated linearly between the pixels of the picture.

    Raises
    ------
    ValueError
        If the picture is not a finite two-dimensional array, is too small for the window, or a number is out of
        its range.

    References
    ----------
    Berkes and Wiskott, "Slow feature analysis yields a rich repertoire of complex cell properties", Journal
    of Vision 5(6):579, 2005.
    """
    from scipy.ndimage import map_coordinates

    image = as_picture(image)
    check_counts(n_frames=n_frames, size=size)
    check_numbers(at_least=0, speed=speed, turning=turning, zooming=zooming, smoothness=smoothness)
    reach = _LARGEST_ZOOM * (size - 1) / np.sqrt(2)  # from the middle of the window to its corners
    if 2 * reach > min(image.shape) - 1:
        raise ValueError(
            f"image must be at least {int(np.ceil(2 * reach)) + 1} pixels wide and high for a window of "
            f"{size}, got the shape {image.shape}"
        )
    rng = np.random.default_rng(seed)
    walks = [
        _reflect(rng.uniform(reach, side - 1 - reach) + np.cumsum(v), reach, side - 1 - reach)
        for side, v in ((n, _velocity(n_frames, speed, smoothness, rng)) for n in image.shape)
    ]
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(_velocity(n_frames, turning, smoothness, rng))
    limit = np.log(_LARGEST_ZOOM)
    scale = np.exp(_reflect(np.cumsum(_velocity(n_frames, zooming, smoothness, rng)), -limit, limit))
    row, column = (np.indices((size, size)) - (size - 1) / 2)[:, None]
    cos, sin = ((scale * f(angle))[:, None, None] for f in (np.cos, np.sin))
    rows = walks[0][:, None, None] + cos * row + sin * column
    columns = walks[1][:, None, None] - sin * row + cos * column
    return map_coordinates(image, [rows, columns], order=1)


def _velocity(n, std, correlation_time, rng):
    """A stationary Ornstein-Uhlenbeck process."""
    from scipy.signal import lfilter

    memory = np.exp(-1 / correlation_time) if correlation_time > 0 else 0.0
    start = memory * rng.standard_normal()
    return std * lfilter([np.sqrt(1 - memory**2)], [1, -memory], rng.standard_normal(n), zi=[start])[0]


def _reflect(walk, low, high):
    """Fold a walk into an interval, as by mirrors at its ends."""
    width = high - low
    if width <= 0:
        return np.full_like(walk, low)
    return low + width - np.abs((walk - low) % (2 * width) - width)
