"""The zebra's video and the window that wanders over a picture."""

import numpy as np
import pytest

from labutils import data


def _delta(y):
    return np.mean(np.diff(y, axis=0) ** 2, axis=0) / np.var(y, axis=0)


def test_zebra_is_where_the_position_says():
    frames, position = data.zebra_video(400, noise_std=0, seed=1)
    assert frames.shape == (400, 20, 64)
    assert position.shape == (400,)
    contrast = ((frames - 0.5) ** 2).sum(axis=1)
    middle = contrast @ np.arange(64) / contrast.sum(axis=1)
    assert np.abs(middle - np.polyval(np.polyfit(position, middle, 1), position)).max() < 1
    assert contrast[:, [0, -1]].max() < 0.5  # all of it is in the picture


def test_zebra_is_as_grey_as_the_field_behind_it():
    frames, _ = data.zebra_video(300, noise_std=0)
    zebra = np.abs(frames - 0.5) > 0.05
    assert zebra.mean() == pytest.approx(0.19, abs=0.03)
    assert frames.mean() == pytest.approx(0.5, abs=0.001)
    assert frames[:, 0].std() < 0.01  # above the zebra
    assert 0 <= frames.min() < 0.05
    assert 0.95 < frames.max() <= 1


def test_stripes_move_with_the_zebra():
    frames, position = data.zebra_video(400, noise_std=0)
    middle = 9 + position * (63 - 9 - 14.5)
    along = np.arange(-7, 8, 0.5)
    stripes = np.array(
        [np.interp(m + along, np.arange(64), frame[9]) for m, frame in zip(middle, frames, strict=True)]
    )
    assert stripes.std(axis=0).max() < 0.1
    assert stripes.std(axis=1).min() > 0.25


def test_pixels_change_faster_than_the_zebra():
    frames, position = data.zebra_video(3000)
    assert 0 <= position.min() < 0.05
    assert 0.95 < position.max() <= 1
    assert _delta(frames[:, 9, 32]) > 50 * _delta(position)


def test_zebra_moves_at_the_given_speed_and_noise_is_added():
    slow, fast = (np.diff(data.zebra_video(3000, speed=speed)[1]) for speed in (0.1, 0.4))
    assert fast.std() / slow.std() == pytest.approx(4, rel=0.05)
    still = data.zebra_video(50, speed=0, noise_std=0.2)[0]
    assert still.std(axis=0).mean() == pytest.approx(0.2, rel=0.05)


def test_window_is_a_piece_of_the_picture_turned_by_some_angle():
    still = {"speed": 0, "turning": 0, "zooming": 0, "seed": 5}
    slopes = []
    for image in np.mgrid[:60.0, :80.0]:  # a ramp downwards, a ramp to the right
        window = data.moving_window(image, 3, 8, **still)
        assert window.shape == (3, 8, 8)
        np.testing.assert_array_equal(window[0], window[2])
        down, right = np.gradient(window[0])
        np.testing.assert_allclose(down, down[0, 0], atol=1e-9)
        np.testing.assert_allclose(right, right[0, 0], atol=1e-9)
        slopes.append([down[0, 0], right[0, 0]])
    np.testing.assert_allclose(slopes @ np.transpose(slopes), np.eye(2), atol=1e-9)
    assert np.linalg.det(slopes) == pytest.approx(1)
    assert abs(slopes[0][1]) > 0.1


def test_window_moves_turns_and_zooms_smoothly_and_stays_inside():
    columns = np.tile(np.arange(80.0), (60, 1))
    window = data.moving_window(columns, 4000, 8, seed=2)
    centre = window.mean(axis=(1, 2))
    assert window.min() >= 0
    assert window.max() <= 79
    assert np.ptp(centre) > 40
    assert np.abs(np.diff(centre)).max() < 5
    across, down = np.diff(window, axis=2).mean(axis=(1, 2)), np.diff(window, axis=1).mean(axis=(1, 2))
    scale = np.hypot(across, down)
    assert 1 / 1.4 - 1e-9 <= scale.min() < 0.8
    assert 1.3 < scale.max() <= 1.4 + 1e-9
    turn = np.unwrap(np.arctan2(down, across))
    assert np.diff(turn).std() == pytest.approx(0.03, rel=0.2)
    assert np.std(np.diff(centre)) == pytest.approx(1, rel=0.2)


def test_window_changes_little_from_frame_to_frame():
    frames = data.moving_window(data.photographs()["china"], 2000, 16).reshape(2000, -1)
    assert _delta(frames).max() < 0.5


def test_window_as_large_as_the_picture_allows():
    image = np.random.default_rng(0).standard_normal((31, 40))
    assert np.isfinite(data.moving_window(image, 500, 16)).all()
    with pytest.raises(ValueError, match="image must be at least 31 pixels wide and high"):
        data.moving_window(image[:30], 500, 16)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: data.zebra_video(30, seed=seed)[0],
        lambda seed: data.zebra_video(30, seed=seed)[1],
        lambda seed: data.moving_window(data.photographs()["flower"], 30, 8, seed=seed),
    ],
)
def test_videos_come_from_a_seed(make):
    np.testing.assert_array_equal(make(3), make(3))
    assert not np.array_equal(make(3), make(4))


def test_picture_is_not_modified():
    image = np.random.default_rng(0).standard_normal((40, 40))
    before = image.copy()
    data.moving_window(image, 10, 8)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_frames": 0}, "n_frames must be a positive integer, got 0"),
        ({"n_frames": 5, "width": 31}, "width must be an integer of at least 32, got 31"),
        ({"n_frames": 5.5}, "n_frames must be a positive integer, got 5.5"),
        ({"n_frames": 5, "speed": -1}, "speed must be a finite number of at least 0, got -1"),
        ({"n_frames": 5, "noise_std": np.nan}, "noise_std must be a finite number of at least 0, got nan"),
    ],
)
def test_zebra_that_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.zebra_video(**arguments)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": np.zeros(40)}, "image must be a two-dimensional array"),
        ({"image": np.full((40, 40), np.nan)}, "image must be a two-dimensional array of finite numbers"),
        ({"n_frames": 0}, "n_frames must be a positive integer, got 0"),
        ({"size": 0}, "size must be a positive integer, got 0"),
        ({"size": 2.5}, "size must be a positive integer, got 2.5"),
        ({"size": 30}, "image must be at least 59 pixels wide and high"),
        ({"turning": np.inf}, "turning must be a finite number of at least 0, got inf"),
        ({"smoothness": -1}, "smoothness must be a finite number of at least 0, got -1"),
    ],
)
def test_window_that_makes_no_sense_is_refused(changes, sentence):
    arguments = {"image": np.zeros((40, 40)), "n_frames": 5, "size": 8} | changes
    with pytest.raises(ValueError, match=sentence):
        data.moving_window(**arguments)
