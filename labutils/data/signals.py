"""Signals made from a seed."""

import numpy as np

from labutils.rules import check_counts, check_numbers

_SCALE = 2 ** (np.array([0, 4, 7, 12, 7, 4]) / 12)  # steps of a melody, as ratios of frequencies
_FORMANTS = ((800, 1200), (300, 2300))  # Hz, of a spoken a and i: two resonances of the throat and the mouth


def sounds(seconds=2.0, rate=8000, seed=0):
    """Four sounds that nobody recorded: a siren, a melody, a drum and a voice.

    Their distributions differ: the siren's is flatter than a Gaussian (sub-Gaussian), the drum's has heavy
    tails (super-Gaussian).

    Parameters
    ----------
    seconds : float
        Duration, at least 0.1.
    rate : int
        Samples per second, at least 6000 (the voice has frequencies up to 2300 Hz).
    seed : int
        Seed of the drum's noise and beats.

    Returns
    -------
    dict of str to numpy.ndarray, shape (seconds * rate,), float64
        Each with mean 0 and variance 1.

    Raises
    ------
    ValueError
        If the duration is too short or the rate too low.
    """
    check_numbers(at_least=0.1, seconds=seconds)
    check_numbers(at_least=6000, rate=rate)
    t = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    made = {
        "siren": np.sin(2 * np.pi * 600 * t + 60 * np.sin(2 * np.pi * 1.3 * t)),
        "melody": _melody(t),
        "drum": _drum(t, rng),
        "voice": _voice(t),
    }
    return {name: (sound - sound.mean()) / sound.std() for name, sound in made.items()}


def smooth_noise(n_samples, timescale, seed=0):
    """A Gaussian signal that changes slowly and never repeats.

    White noise is smoothed with a Gaussian window.

    Parameters
    ----------
    n_samples : int
        At least 2.
    timescale : float
        Standard deviation of the window in samples, above 0. Samples further apart than about three of it are
        all but independent.
    seed : int

    Returns
    -------
    numpy.ndarray, shape (n_samples,), float64
        With mean 0 and variance 1.

    Raises
    ------
    ValueError
        If there are fewer than two samples or the timescale is not positive.
    """
    from scipy.ndimage import gaussian_filter1d

    check_counts(at_least=2, n_samples=n_samples)
    check_numbers(above=0, timescale=timescale)
    margin = int(np.ceil(4 * timescale))  # which the window needs on both sides
    noise = np.random.default_rng(seed).standard_normal(n_samples + 2 * margin)
    signal = gaussian_filter1d(noise, timescale)[margin : margin + n_samples]
    return (signal - signal.mean()) / signal.std()


def _melody(t):
    """Sawtooth tones, each a quarter of a second, loud at first."""
    note = (t / 0.25).astype(int)
    phase = np.cumsum(220 * _SCALE[note % len(_SCALE)]) * (t[1] - t[0])
    return (2 * (phase % 1) - 1) * np.exp(-3 * (t % 0.25))


def _drum(t, rng):
    """Bursts of noise, four a second, not quite regular, each dying out quickly."""
    since_beat = (t + 0.02 * np.sin(2 * np.pi * 0.7 * t)) % 0.23
    return rng.standard_normal(len(t)) * np.exp(-30 * since_beat)


def _voice(t):
    """A pulse train at 110 Hz through two resonances, which change from a to i and back."""
    pulses = np.sin(2 * np.pi * 110 * t) > 0.98
    lag = np.arange(0, 0.03, t[1] - t[0])
    vowels = []
    for formants in _FORMANTS:
        response = sum(np.exp(-250 * lag) * np.sin(2 * np.pi * f * lag) for f in formants)
        vowels.append(np.convolve(pulses, response)[: len(t)])
    mix = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * 1.9 * t))
    return (mix * vowels[0] + (1 - mix) * vowels[1]) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.8 * t))
