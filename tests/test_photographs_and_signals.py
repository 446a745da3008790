"""Photographs, their patches, and the sounds."""

import numpy as np
import pytest
from scipy.stats import kurtosis

from labutils import data


def _radial_amplitude(image, low, high):
    """Mean amplitude of the spectrum between two frequencies in cycles per pixel."""
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    return np.abs(np.fft.fft2(image))[(frequency > low) & (frequency <= high)].mean()


def test_photographs_are_grey_values_and_cannot_be_overwritten():
    images = data.photographs()
    assert set(images) == {"china", "flower"}
    for image in images.values():
        assert image.shape == (427, 640)
        assert image.dtype == np.float64
        assert 0 <= image.min() < 0.1
        assert 0.8 < image.max() <= 1
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0] = 1.0


def test_whitening_evens_out_the_spectrum():
    image = data.photographs()["china"]
    whitened = data.whiten_image(image)
    assert _radial_amplitude(image, 0.02, 0.05) / _radial_amplitude(image, 0.15, 0.25) > 4
    assert 0.5 < _radial_amplitude(whitened, 0.02, 0.05) / _radial_amplitude(whitened, 0.15, 0.25) < 2
    assert _radial_amplitude(whitened, 0.6, 0.75) < 0.05 * _radial_amplitude(whitened, 0.15, 0.25)
    assert whitened.mean() == pytest.approx(0, abs=1e-12)
    assert whitened.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("image", "cutoff", "sentence"),
    [
        (np.zeros(4), 0.4, "image must be a two-dimensional array"),
        (np.full((4, 4), np.nan), 0.4, "image must be a two-dimensional array of finite numbers"),
        (np.ones((4, 4)), 0.4, "image must not be constant"),
        (np.eye(4), 0.0, "cutoff must be a finite number above 0"),
        (np.eye(4), np.nan, "cutoff must be a finite number above 0"),
    ],
)
def test_image_that_cannot_be_whitened_is_refused(image, cutoff, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.whiten_image(image, cutoff)


def test_patches_are_cut_out_of_the_images():
    images = [np.arange(600.0).reshape(20, 30), -np.arange(600.0).reshape(20, 30)]
    patches = data.natural_patches(101, 4, whiten=False, images=images, seed=3)
    assert patches.shape == (101, 16)
    for patch in patches:
        rows = patch.reshape(4, 4) * (1 if patch[1] > patch[0] else -1)
        assert (np.diff(rows, axis=1) == 1).all()
        assert (np.diff(rows, axis=0) == 30).all()
    from_first = (patches[:, 1] > patches[:, 0]).sum()
    assert from_first in (50, 51)


def test_patches_come_from_a_seed():
    first, again, other = (data.natural_patches(20, 8, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patches_do_not_touch_the_border_that_whitening_spoils():
    image = np.random.default_rng(0).standard_normal((24, 24))
    inside = data.whiten_image(image)[8:16, 8:16]
    patch = data.natural_patches(1, 8, images=[image])
    np.testing.assert_allclose(patch[0], inside.ravel())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_patches": 0, "patch_size": 8}, "n_patches must be a positive integer, got 0"),
        ({"n_patches": 5, "patch_size": 0}, "patch_size must be a positive integer, got 0"),
        ({"n_patches": 5.5, "patch_size": 8}, "n_patches must be a positive integer, got 5.5"),
        ({"n_patches": 5, "patch_size": 8, "images": []}, "images must hold at least one picture, got none"),
        ({"n_patches": 5, "patch_size": 2, "images": [np.ones(9)]}, "image must be a two-dimensional array"),
        (
            {"n_patches": 5, "patch_size": 2, "images": [np.full((9, 9), np.nan)], "whiten": False},
            "image must be a two-dimensional array of finite numbers",
        ),
        ({"n_patches": 5, "patch_size": 412}, "patch_size must be at most 411"),
    ],
)
def test_patches_that_do_not_exist_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.natural_patches(**arguments)


def test_scrambled_picture_is_gaussian_and_keeps_the_spectrum():
    for shape in ((64, 80), (63, 81)):
        image = data.photographs()["china"][: shape[0], : shape[1]]
        scrambled = data.scramble_phases(image, seed=1)
        assert scrambled.shape == shape
        np.testing.assert_allclose(np.abs(np.fft.fft2(scrambled)), np.abs(np.fft.fft2(image)), atol=1e-9)
        assert abs(np.corrcoef(scrambled.ravel(), image.ravel())[0, 1]) < 0.3
    image = data.photographs()["china"]
    before = image.copy()
    scrambled = data.scramble_phases(image)
    np.testing.assert_array_equal(image, before)
    assert kurtosis(np.diff(image).ravel()) > 5
    assert abs(kurtosis(np.diff(scrambled).ravel())) < 0.1
    np.testing.assert_array_equal(scrambled, data.scramble_phases(image, seed=0))
    assert not np.array_equal(scrambled, data.scramble_phases(image, seed=1))
    with pytest.raises(ValueError, match="image must be a two-dimensional array of finite numbers"):
        data.scramble_phases(np.full((4, 4), np.inf))


def test_sounds_are_standardised_nearly_uncorrelated_and_of_different_shapes():
    made = data.sounds(seconds=2.0, rate=8000)
    assert list(made) == ["siren", "melody", "drum", "voice"]
    signals = np.array(list(made.values()))
    assert signals.shape == (4, 16_000)
    np.testing.assert_allclose(signals.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(signals.std(axis=1), 1)
    assert np.abs(np.corrcoef(signals) - np.eye(4)).max() < 0.05
    siren, melody, drum, voice = kurtosis(signals, axis=1)
    assert siren < -1
    assert melody < -0.5
    assert drum > 5
    assert voice > 1


def test_sounds_come_from_a_seed():
    first, again, other = (data.sounds(seed=seed)["drum"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seconds": 0.01}, "seconds must be a finite number of at least 0.1"),
        ({"rate": 100}, "rate must be a finite number of at least 6000"),
        ({"seconds": np.inf}, "seconds must be a finite number of at least 0.1, got inf"),
        ({"seconds": "2"}, "seconds must be a finite number of at least 0.1, got '2'"),
        ({"seconds": np.nan}, "seconds must be a finite number of at least 0.1"),
    ],
)
def test_sounds_too_short_or_too_coarse_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.sounds(**arguments)


@pytest.mark.parametrize("timescale", [3, 30.5])
def test_smooth_noise_has_the_correlations_of_its_window(timescale):
    signal = data.smooth_noise(100_000, timescale, seed=2)
    assert signal.mean() == pytest.approx(0, abs=1e-12)
    assert signal.std() == pytest.approx(1)
    for lag in (1, int(timescale), int(3 * timescale)):
        expected = np.exp(-((lag / timescale) ** 2) / 4)
        assert np.mean(signal[lag:] * signal[:-lag]) == pytest.approx(expected, abs=0.1)
    np.testing.assert_array_equal(signal, data.smooth_noise(100_000, timescale, seed=2))
    assert not np.array_equal(signal, data.smooth_noise(100_000, timescale, seed=3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1, 3), "n_samples must be an integer of at least 2, got 1"),
        ((9.5, 3), "n_samples must be an integer of at least 2, got 9.5"),
        ((9, 0), "timescale must be a finite number above 0, got 0"),
        ((9, np.nan), "timescale must be a finite number above 0, got nan"),
    ],
)
def test_smooth_noise_that_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.smooth_noise(*arguments)
