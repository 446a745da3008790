"""Exercises: a check that says at once whether an answer is right, and if not, what kind of mistake it is."""

import copy
import numbers
import reprlib
import sys
import traceback

import numpy as np

_said = []  # what check_exercise said last, for `require_right`


def check_exercise(answer, expected, *, mistakes=(), rtol=None, atol=None):
    """Tell at once whether an exercise is right, and if not, what kind of mistake it is.

    Whatever the answer is, the check says a sentence and raises nothing.

    Parameters
    ----------
    answer : number, str, array, tensor, data frame, or list of these
        The student's; None (also anywhere in a list) counts as not done yet.
    expected : the same
        The right one.
    mistakes : list of (wrong answer, str)
        Plausible wrong answers, and what to say about each.
    rtol, atol : float
        Tolerances, as in `numpy.allclose`. If not given, the relative one is 1e-5, or less where whole numbers are
        expected that it would not tell apart; the absolute one is 1e-8, times the largest of the expected numbers if
        that is below 1, so that a zero is no answer where something tiny is asked for.

    Prints "not done yet", "right", or "wrong: " and why.
    """
    _said[:] = [_feedback(answer, expected, mistakes, rtol, atol)]
    print(*_said)


def attempt(function, *arguments):
    """Call a student's function for `check_exercise`, which then says what it raised, if it raises something.

    Parameters
    ----------
    function : callable
        Its name is said, too, unless it is a lambda of the check's own.
    *arguments
        What to call it with; it gets a copy, so that it cannot change what the check computes with.

    Returns
    -------
    object
        What the function returns, or something that stands for what it raised.
    """
    try:
        return function(*copy.deepcopy(arguments))
    except Exception as error:  # noqa: BLE001 - whatever a student's function does
        name = getattr(function, "__name__", "<lambda>")
        said = traceback.format_exception_only(error)[-1].splitlines()[0]
        return _Raised(f"{'it' if name == '<lambda>' else name} raises {said}")


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


class _Raised:
    """Stands in an answer for what a student's function raised."""

    def __init__(self, message):
        self.message = message


class _NotNumbers(TypeError):
    """Says what an answer is instead of numbers."""


def _feedback(answer, expected, mistakes, rtol, atol):
    try:
        if _has_gap(answer):
            return "not done yet"
        if isinstance(expected, str):
            return _compare_words(answer, expected, mistakes)
        if isinstance(answer, str):
            return f"wrong: a number is needed, got {reprlib.repr(answer)}"
        given = _as_array(answer)
    except _NotNumbers as error:
        return f"wrong: {error}"
    except OverflowError:
        return "wrong: it contains a number beyond all bounds of a float"
    except Exception:  # noqa: BLE001 - whatever an answer does when it is looked at
        return f"wrong: numbers are needed, got {type(answer).__name__}"
    right = _as_array(expected)
    largest = np.abs(right).max(initial=0)
    if rtol is None:
        rtol = min(1e-5, 0.1 / max(1, largest)) if np.asarray(expected).dtype.kind in "iu" else 1e-5
    if atol is None:
        atol = 1e-8 * min(1.0, largest or 1.0)
    return _compare(given, right, mistakes, rtol, atol)


def _compare_words(answer, expected, mistakes):
    if isinstance(answer, _Raised):
        return f"wrong: {answer.message}"
    if not isinstance(answer, str):
        return f"wrong: a word is needed, got {reprlib.repr(answer)}"
    given = answer.strip().lower()
    if given == expected.strip().lower():
        return "right"
    said = [message for wrong, message in mistakes if given == wrong.strip().lower()]
    return f"wrong: {said[0] if said else f'{reprlib.repr(answer)} is not the answer'}"


@np.errstate(all="ignore")  # a wrong answer may overflow
def _compare(answer, expected, mistakes, rtol, atol):
    def same(a, b):
        alike = a.shape == b.shape and (a.dtype == bool) == (b.dtype == bool)
        return alike and np.allclose(a, b, rtol=rtol, atol=atol)

    if np.iscomplexobj(answer) and not answer.imag.any():
        answer = answer.real
    if same(answer, expected):
        return "right"
    for wrong, message in mistakes:
        if same(answer, _as_array(wrong)):
            return f"wrong: {message}"
    if (answer.dtype == bool) != (expected.dtype == bool) and answer.size:
        needed = (
            ("numbers are", "True and False") if expected.dtype != bool else ("True or False is", "numbers")
        )
        return f"wrong: {needed[0]} needed, got {needed[1]}"
    if answer.dtype == bool:
        answer, expected = answer.astype(float), expected.astype(float)
    if answer.shape != expected.shape:
        if expected.shape == ():
            return f"wrong: one number is needed, got {answer.size} in a list or array"
        hint = "; transpose it" if same(answer.T, expected) else ""
        return f"wrong: the shape should be {expected.shape}, got {answer.shape}{hint}"
    if not np.isfinite(answer).all():
        return "wrong: it contains nan or infinity"
    if np.iscomplexobj(answer) and not np.iscomplexobj(expected):
        return f"wrong: real numbers are needed, got complex ones such as {answer[np.abs(answer.imag) > 0].flat[0]:.6g}"
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
    if np.iscomplexobj(expected):
        return f"wrong: {answer[at]:.6g} is not the answer{place}"
    return f"wrong: {answer[at]:.6g} is too {'large' if answer[at] > expected[at] else 'small'}{place}"


def _has_gap(answer):
    if isinstance(answer, np.ndarray) and answer.dtype == object:
        answer = answer.tolist()
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return any(_has_gap(item) for item in answer)
    return answer is None or answer is ...


def _as_array(value):
    """Numbers, in whatever holds them, as an array of float, complex or bool.

    Nothing becomes a number here that a person would not call one: no text, no time, and no list in which True
    stands for 1.
    """
    if isinstance(value, list | tuple | range):
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            return np.array(value, dtype=float)
        parts = [_as_array(item) for item in value]
        if len({(part.shape, part.dtype == bool) for part in parts}) > 1:
            raise _NotNumbers("the parts of the list must be numbers, or have the same shape")
        return np.stack(parts)
    if isinstance(value, _Raised):
        raise _NotNumbers(value.message)
    if isinstance(value, numbers.Number) and not isinstance(value, bool | np.generic):
        return np.array(value, dtype=complex if isinstance(value, complex) else float)
    if isinstance(value, bool):
        return np.array(value)
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        value = _from_torch(value)
    if np.ma.is_masked(value):
        raise _NotNumbers("numbers are needed, got an array with masked entries")
    if isinstance(value, type) or callable(value):
        raise _NotNumbers(
            f"numbers are needed, got {getattr(value, '__name__', 'something')}, which is to be called"
        )
    if not hasattr(value, "__array__"):
        hint = "; its .toarray() is an array" if hasattr(value, "toarray") else ""
        raise _NotNumbers(f"numbers are needed, got {type(value).__name__}{hint}")
    array = np.asarray(value)
    if array.dtype == object:
        return _as_array(array.tolist())
    if array.dtype.kind not in "biufc":
        raise _NotNumbers(f"numbers are needed, got an array of {array.dtype}")
    return array.astype({"b": bool, "c": complex}.get(array.dtype.kind, float))


def _from_torch(tensor):
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point():
        tensor = tensor.double()  # numpy lacks some of torch's precisions
    return tensor.numpy()
