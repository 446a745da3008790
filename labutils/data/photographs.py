"""Two photographs that ship with scikit-learn, and small patches of them: natural images for the lessons."""

from functools import cache

import numpy as np

from labutils.rules import check_counts, check_numbers

_NAMES = ("china", "flower")
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
_BORDER = 8  # pixels at the edge of a whitened picture that see the opposite edge


@cache
def _photograph(name):
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(f"{name}.jpg") @ np.array(_LUMINANCE) / 255
    grey.flags.writeable = False
    return grey


def photographs():
    """Load the photographs as grey values.

    Returns
    -------
    dict of str to numpy.ndarray, shape (427, 640), float64
        A temple (``"china"``) and a flower (``"flower"``); grey values from 0 (black) to 1 (white), read-only.
    """
    return {name: _photograph(name) for name in _NAMES}


def as_picture(image):
    """A picture as an array of float64; raise ValueError if it is not a finite two-dimensional array."""
    image = np.asarray(image, dtype=float)
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError(
            f"image must be a two-dimensional array of finite numbers, got one of shape {image.shape}"
        )
    return image


def whiten_image(image, cutoff=0.4):
    """Flatten the spectrum of a natural image, and take out its highest frequencies.

    The amplitude of natural images falls like one over the frequency f. The filter f exp(-(f / cutoff)^4)
    evens that out, and suppresses the corners of the spectrum, which hold noise and no direction more than
    another.

    Parameters
    ----------
    image : numpy.ndarray, shape (height, width)
    cutoff : float
        In cycles per pixel; above 0.

    Returns
    -------
    numpy.ndarray, shape (height, width), float64
        With mean 0 and variance 1.

    Raises
    ------
    ValueError
        If the image is not a finite two-dimensional array with some variation, or the cutoff is not positive.

    References
    ----------
    Olshausen and Field, "Emergence of simple-cell receptive field properties by learning a sparse code for
    natural images", Nature 381:607, 1996.
    """
    image = as_picture(image)
    check_numbers(above=0, cutoff=cutoff)
    if np.ptp(image) == 0:
        raise ValueError("image must not be constant: there is nothing to whiten")
    rows, columns = (np.fft.fftfreq(size) for size in image.shape)
    frequency = np.hypot(rows[:, None], columns)
    whitened = np.fft.ifft2(np.fft.fft2(image) * frequency * np.exp(-((frequency / cutoff) ** 4))).real
    return whitened / whitened.std()


def scramble_phases(image, seed=0):
    """Gaussian noise with the spectrum of a picture: the amplitudes are kept, the phases drawn at random.

    Parameters
    ----------
    image : array-like, shape (height, width)
    seed : int
        Seed of the phases.

    Returns
    -------
    numpy.ndarray, shape (height, width), float64
        With the mean and the variance of the picture.

    Raises
    ------
    ValueError
        If the image is not a finite two-dimensional array.
    """
    image = as_picture(image)
    # The phases of real noise, because those of a real picture come in pairs of opposite sign.
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal(image.shape))
    noise[0, 0] = 1
    noise = noise / np.abs(noise)
    scrambled = np.fft.irfft2(np.abs(np.fft.rfft2(image - image.mean())) * noise, image.shape)
    return image.mean() + scrambled


def natural_patches(n_patches, patch_size, *, whiten=True, images=None, seed=0):
    """Cut square patches at random places out of photographs.

    Parameters
    ----------
    n_patches : int
        As many from each photograph, up to one.
    patch_size : int
        Side of a patch in pixels.
    whiten : bool
        Whether the photographs go through `whiten_image` first.
    images : sequence of numpy.ndarray, optional
        Grey pictures to use instead of `photographs`.
    seed : int
        Seed of the places.

    Returns
    -------
    numpy.ndarray, shape (n_patches, patch_size ** 2), float64
        One patch a row, in random order. Their means are not removed.

    Raises
    ------
    ValueError
        If a number is no positive integer, a picture is no finite two-dimensional array or is too small for a
        patch, or there is none.
    """
    check_counts(n_patches=n_patches, patch_size=patch_size)
    pictures = [as_picture(image) for image in (photographs().values() if images is None else images)]
    if not pictures:
        raise ValueError("images must hold at least one picture, got none")
    border = _BORDER if whiten else 0
    smallest = min(min(picture.shape) for picture in pictures) - 2 * border
    if patch_size > smallest:
        raise ValueError(
            f"patch_size must be at most {smallest}, the smallest photograph's side, got {patch_size}"
        )
    rng = np.random.default_rng(seed)
    of_picture = rng.permutation(np.arange(n_patches) % len(pictures))
    patches = np.empty((n_patches, patch_size, patch_size))
    for number, picture in enumerate(pictures):
        picture = whiten_image(picture) if whiten else picture
        inside = picture[border : picture.shape[0] - border, border : picture.shape[1] - border]
        windows = np.lib.stride_tricks.sliding_window_view(inside, (patch_size, patch_size))
        chosen = np.flatnonzero(of_picture == number)
        rows = rng.integers(windows.shape[0], size=len(chosen))
        columns = rng.integers(windows.shape[1], size=len(chosen))
        patches[chosen] = windows[rows, columns]
    return patches.reshape(n_patches, -1)
