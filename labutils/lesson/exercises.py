"""Exercises: a check that says at once whether an answer is right, and if not, what kind of mistake it is."""

import sys

import numpy as np

_said = []  # what check_exercise said last, for `require_right`


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


def _as_array(value):
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=float)
