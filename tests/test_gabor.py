"""Fits of Gabor functions: parameters come back, and what is no Gabor function is told apart."""

import numpy as np
import pytest

from labutils import gabor

SIDE = 12


def _gabor(orientation, frequency, phase, centre, width):
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    dx, dy = x - centre[0], y - centre[1]
    u = np.cos(orientation) * dx + np.sin(orientation) * dy
    v = -np.sin(orientation) * dx + np.cos(orientation) * dy
    envelope = np.exp(-(u**2) / (2 * width[0] ** 2) - v**2 / (2 * width[1] ** 2))
    return envelope * np.cos(2 * np.pi * frequency * u + phase)


def _draw(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "orientation": rng.uniform(0, np.pi),
            "frequency": rng.uniform(0.1, 0.4),
            "phase": rng.uniform(-np.pi, np.pi),
            "centre": rng.uniform(3, 8, 2),
            "width": rng.uniform(1.5, 3, 2),
        }
        for _ in range(n)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_parameters_come_back(noise):
    true = _draw()
    filters = np.array([_gabor(**parameters) for parameters in true])
    filters += noise * np.random.default_rng(1).standard_normal(filters.shape)
    fits = gabor.fit_gabor(7.5 * filters)
    tolerance = 1e-6 + 6 * noise
    assert (fits.r2 > 1 - (1e-8 + 40 * noise**2 * 10)).all()
    orientation, frequency, phase = (
        np.array([p[name] for p in true]) for name in ("orientation", "frequency", "phase")
    )
    assert (fits.orientation >= 0).all()
    assert (fits.orientation < np.pi).all()
    np.testing.assert_allclose(np.sin(fits.orientation - orientation), 0, atol=tolerance)
    np.testing.assert_allclose(fits.frequency, frequency, atol=tolerance)
    # a wave counted in the other direction (orientations near 0 and pi) has the opposite phase
    turned = np.where(np.cos(fits.orientation - orientation) < 0, -1, 1)
    np.testing.assert_allclose(np.exp(1j * turned * fits.phase), np.exp(1j * phase), atol=5 * tolerance)
    np.testing.assert_allclose(fits.centre, [p["centre"] for p in true], atol=10 * tolerance)
    np.testing.assert_allclose(fits.width, [p["width"] for p in true], atol=15 * tolerance)


def test_fitted_functions_have_the_scale_of_the_filters():
    filters = np.array([100 * _gabor(**parameters) for parameters in _draw(5)])
    np.testing.assert_allclose(gabor.fit_gabor(filters).fitted, filters, atol=1e-4)


def test_flat_rows_and_squares_are_the_same_filters():
    filters = np.array([_gabor(**parameters) for parameters in _draw(3)])
    np.testing.assert_array_equal(gabor.fit_gabor(filters).r2, gabor.fit_gabor(filters.reshape(3, -1)).r2)


def test_noise_is_no_gabor_function():
    noise = np.random.default_rng(0).standard_normal((20, SIDE, SIDE))
    fits = gabor.fit_gabor(noise)
    assert np.median(fits.r2) < 0.3
    assert (fits.r2 >= 0).all()


def test_filters_are_not_modified():
    filters = np.array([_gabor(**parameters) for parameters in _draw(2)])
    before = filters.copy()
    gabor.fit_gabor(filters)
    np.testing.assert_array_equal(filters, before)


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        (np.ones((2, 15)), "filters must have the shape"),
        (np.ones((2, 3, 3)), "with a side of at least 4"),
        (np.ones((2, 5, 6)), "filters must have the shape"),
        (np.ones(16), "filters must have the shape"),
        (np.ones((0, 16)), "filters must have the shape"),
        (np.full((1, 16), np.nan), "filters must be finite"),
        (np.zeros((1, 16)), "but number 0 is"),
    ],
)
def test_filters_that_cannot_be_fitted_are_refused(filters, sentence):
    with pytest.raises(ValueError, match=sentence):
        gabor.fit_gabor(filters)
