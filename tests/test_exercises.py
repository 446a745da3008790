"""The checker of exercises: whatever an answer is, one sentence, and "right" only for what is right."""

import decimal
import fractions
import math

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labutils import lesson
from labutils.lesson import exercises

MATRIX = [[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]]


def said(answer, expected, **tolerances):
    return exercises._feedback(
        answer, expected, tolerances.pop("mistakes", ()), **{"rtol": None, "atol": None, **tolerances}
    )


def raising():
    raise ZeroDivisionError("division by zero")


def itself():
    own = [1.0]
    own.append(own)
    return own


class Stubborn:
    """Raises at whatever it is asked for."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError("repr")

    def __float__(self):
        raise RuntimeError("float")


class Liar:
    def __array__(self, dtype=None, copy=None):
        return [3.0]


W = torch.tensor([1.0, 2.0], requires_grad=True)
RIGHT = {
    "gradients in a list": ([W[0], W[1]], [1.0, 2.0]),
    "gradients in a list of lists": ([W, [W[0] + 3, W[1]]], [[1, 2], [4, 2]]),
    "tensors in a list": ([torch.tensor(1), torch.tensor([2.0])[0]], [1, 2]),
    "a parameter": (torch.nn.Parameter(torch.ones(2)), [1, 1]),
    "half precision": (torch.tensor([0.5, 2.0], dtype=torch.bfloat16), [0.5, 2]),
    "a conjugate": (torch.tensor([1 - 5j]).conj(), [1 + 5j]),
    "complex for complex": ([1 + 5j], [1 + 5j]),
    "complex without an imaginary part": ([1 + 0j], [1]),
    "complex with one of rounding": (np.array([1 + 1e-17j]), [1.0]),
    "a 0-d array": (np.array(3.0), 3),
    "a 0-d tensor": (torch.tensor(3.0, requires_grad=True), 3),
    "a 0-d object": (np.array(3.0, dtype=object), 3),
    "arrays of arrays": (np.array([np.array(1), 2.0], dtype=object), [1, 2]),
    "nothing masked": (np.ma.array([1.0, 2.0], mask=False), [1, 2]),
    "a series": (pd.Series([1, 2], index=[7, 5]), [1, 2]),
    "a frame": (pd.DataFrame(MATRIX), MATRIX),
    "nullable integers": (pd.Series([1, 2], dtype="Int64"), [1, 2]),
    "a fraction": (fractions.Fraction(1, 3), 1 / 3),
    "a decimal": (decimal.Decimal("0.1"), 0.1),
    "a range": (range(3), [0, 1, 2]),
    "unsigned": (np.array([1, 2], dtype=np.uint8), [1, 2]),
    "infinity": ([math.inf, 1], [math.inf, 1]),
    "truth values": (np.array([True, False]), [True, False]),
    "something tiny": (4.7e-12, 4.7e-12),
    "rounding where zero is right": ([1.0, 3e-17], [1, 0]),
    "rounding where nothing else is": (3e-17, 0),
    "text that is text": (np.str_("ica"), "ICA"),
}
WRONG = {
    "complex for real": ([1 + 5j], [1], "real numbers are needed, got complex ones such as 1+5j"),
    "a complex array": (
        np.array([1.0, 2 + 1e-3j]),
        [1, 2],
        "real numbers are needed, got complex ones such as 2+0.001j",
    ),
    "complex, and no rounding": (3 + 0j, 7, "3 is too small"),
    "another complex": ([2 + 5j, 1], [1 + 5j, 1], "2+5j is not the answer at (0,)"),
    "complex with nan": (complex("nan"), 1, "it contains nan or infinity"),
    "masked": (
        np.ma.array([1.0, 2.0], mask=[0, 1]),
        [1, 2],
        "numbers are needed, got an array with masked entries",
    ),
    "masked in a list": ([1.0, np.ma.masked], [1, 2], "numbers are needed, got an array with masked entries"),
    "nan for nan": (math.nan, math.nan, "it contains nan or infinity"),
    "infinity": (-math.inf, math.inf, "it contains nan or infinity"),
    "text": ("3", 3, "a number is needed, got '3'"),
    "text in a list": (["1", "2"], [1, 2], "numbers are needed, got str"),
    "text in an array": (np.array(["1", "2"]), [1, 2], "numbers are needed, got an array of <U1"),
    "text among numbers": ([1, "2"], [1, 2], "numbers are needed, got str"),
    "bytes": (b"3", 3, "numbers are needed, got bytes"),
    "an array of bytes": (np.array([b"3"]), [3], "numbers are needed, got an array of |S1"),
    "True for 1": (True, 1, "numbers are needed, got True and False"),
    "numpy's True for 1": (np.True_, 1, "numbers are needed, got True and False"),
    "True among numbers": (
        [True, 2],
        [1, 2],
        "the parts of the list must be numbers, or have the same shape",
    ),
    "truth values for counts": (
        torch.tensor([True, False]),
        [1, 0],
        "numbers are needed, got True and False",
    ),
    "1 for True": ([1, 0], [True, False], "True or False is needed, got numbers"),
    "the other truth value": (True, False, "off by one"),
    "a function": (raising, 3, "numbers are needed, got raising, which is to be called"),
    "a function that gives it": (lambda: 3, 3, "numbers are needed, got <lambda>, which is to be called"),
    "functions in a list": ([len], [3], "numbers are needed, got len, which is to be called"),
    "a class": (np.float64, 3, "numbers are needed, got float64, which is to be called"),
    "a set": ({3}, 3, "numbers are needed, got set"),
    "a generator": ((i for i in [1, 2]), [1, 2], "numbers are needed, got generator"),
    "a dict": ({1: 1}, [1], "numbers are needed, got dict"),
    "values of a dict": ({1: 1}.values(), [1], "numbers are needed, got dict_values"),
    "an object": (object(), 3, "numbers are needed, got object"),
    "objects in an array": (np.array([object()]), [3], "numbers are needed, got object"),
    "what raises": (Stubborn(), 3, "numbers are needed, got Stubborn"),
    "what raises, in a list": ([1, Stubborn()], [1, 2], "numbers are needed, got list"),
    "what is no array": (Liar(), [3], "numbers are needed, got Liar"),
    "what holds itself": (itself(), [1, 1], "numbers are needed, got list"),
    "a sparse matrix": (
        scipy.sparse.csr_array(MATRIX),
        MATRIX,
        "numbers are needed, got csr_array; its .toarray() is an array",
    ),
    "a sparse tensor": (torch.tensor(MATRIX).to_sparse(), MATRIX, "numbers are needed, got Tensor"),
    "a tensor without data": (torch.zeros(2, device="meta"), [0, 0], "numbers are needed, got Tensor"),
    "times": (np.array([1, 2], dtype="m8[s]"), [1, 2], "numbers are needed, got an array of timedelta64[s]"),
    "a date": (np.datetime64(3, "D"), 3, "numbers are needed, got an array of datetime64[D]"),
    "records": (
        np.array([(1,)], dtype=[("x", int)]),
        [1],
        "numbers are needed, got an array of [('x', '<i8')]",
    ),
    "a series of text": (pd.Series(["1", "2"]), [1, 2], None),
    "a series with gaps": (pd.Series([1, None]), [1, 2], "it contains nan or infinity"),
    "a series that lacks one": (pd.Series([1, None], dtype="Int64"), [1, 2], None),
    "ragged": ([[1, 2], [3]], MATRIX, "the parts of the list must be numbers, or have the same shape"),
    "ragged and deep": (
        [[[1], [2, 3]], 4],
        MATRIX,
        "the parts of the list must be numbers, or have the same shape",
    ),
    "no numbers": ([], [1, 2], "the shape should be (2,), got (0,)"),
    "no number": ([], 1, "one number is needed, got 0 in a list or array"),
    "huge": ([0.0] * 100_000, 1.0, "one number is needed, got 100000 in a list or array"),
    "deep": (eval("[" * 90 + "1" + "]" * 90), 1, "numbers are needed, got list"),
    "beyond a float": (10**400, 3, "it contains a number beyond all bounds of a float"),
    "beyond a float, in a list": ([1, 10**400], [1, 2], "it contains a number beyond all bounds of a float"),
    "nearly beyond": ([1e308, -1e308], [1e-300, 1], None),
    "zero for something tiny": (0, 4.7e-12, "0 is too small"),
    "zeros for something tiny": ([0, 0], [4.7e-12, 1e-9], "0 is too small at (1,)"),
    "one more of many": (214_611, 214_610, "off by one"),
    "half a one more of many": (214_610.5, 214_610, "214610 is too large"),
    "a number for a word": (3, "ICA", "a word is needed, got 3"),
    "what raises for a word": (Stubborn(), "ICA", None),
    "a long word": ("x" * 1000, "ICA", None),
    "a list for a word": (["ICA"], "ICA", "a word is needed, got ['ICA']"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RIGHT)
def test_right_in_whatever_form(name):
    assert said(*RIGHT[name]) == "right"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_in_whatever_form(name):
    answer, expected, message = WRONG[name]
    result = said(answer, expected)
    assert result.startswith("wrong: ")
    assert len(result) < 200
    if message is not None:
        assert result == f"wrong: {message}"


@pytest.mark.parametrize(
    "answer",
    [
        {"h": None, "c": 1.0},
        [1.0, {"a": [None]}],
        np.array(None),
        np.array([[None]]),
        [W, None],
        (raising, None),
    ],
)
def test_a_gap_anywhere_is_not_done_yet(answer):
    assert said(answer, [1.0, 2.0]) == "not done yet"


def test_mistakes_are_told_from_the_answer_in_any_form():
    mistakes = [([2 + 0j, 1], "the other way round"), (torch.tensor([2.0, 2.0], requires_grad=True), "twice")]
    assert said([W[1], W[0]], [1, 2], mistakes=mistakes) == "wrong: the other way round"
    assert said([W[1], W[1]], [1, 2], mistakes=mistakes) == "wrong: twice"
    masks = [([True, False], "say how large, not whether")]
    assert said(np.array([1, 0]) > 0, [3, 0], mistakes=masks) == "wrong: say how large, not whether"
    assert said([1, 0], [3, 0], mistakes=masks) == "wrong: off by the factor 0.3333"


# --- functions of students ------------------------------------------------------------------------------


def test_attempt_gives_what_the_function_gives():
    assert said(lesson.attempt(lambda a, b: a + b, 1, 2), 3) == "right"
    assert said([lesson.attempt(abs, n) for n in (-1, 2)], [1, 2]) == "right"
    assert said(lesson.attempt(lambda n: None, 1), 3) == "not done yet"


def endless():
    return endless()


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def unspeakable():
    raise Unspeakable


@pytest.mark.parametrize("expected", [3.0, [3.0], "ICA"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, "raising raises ZeroDivisionError: division by zero"),
        (lambda: undefined, "it raises NameError: name 'undefined' is not defined"),  # noqa: F821
        (lambda: np.zeros(2) @ np.zeros(3), "it raises ValueError: matmul"),
        (lambda x: x, "it raises TypeError: "),
        (endless, "endless raises RecursionError: maximum recursion depth exceeded"),
        (unspeakable, "unspeakable raises "),
        (None, "it raises TypeError: 'NoneType' object is not callable"),
    ],
)
def test_what_a_function_raises_is_said(function, message, expected):
    assert said(lesson.attempt(function), expected).startswith(f"wrong: {message}")
    if expected == [3.0]:
        assert said([lesson.attempt(function)], expected).startswith(f"wrong: {message}")


def test_a_gap_counts_before_what_is_raised():
    assert said([lesson.attempt(raising), None], [1, 2]) == "not done yet"


def test_a_function_cannot_change_what_the_check_computes_with():
    x = np.ones(2)

    def spoil(x):
        x += 1
        return x

    assert said(lesson.attempt(spoil, x), [2, 2]) == "right"
    assert np.array_equal(x, [1, 1])


def test_an_interrupt_is_no_wrong_answer():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lesson.attempt(interrupted)


# --- properties -----------------------------------------------------------------------------------------

numbers_ = st.one_of(
    st.integers(-5, 5),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(),
    st.booleans(),
)
oddities = st.one_of(
    numbers_,
    st.none(),
    st.text(max_size=3),
    st.sampled_from(["1", "3.0", "nan", "True"]),
    st.binary(max_size=3),
    st.dates(),
    st.timedeltas(),
    st.builds(Stubborn),
    st.builds(np.array, numbers_),
    st.builds(lambda x: torch.tensor(float(x), requires_grad=True), st.integers(-3, 3)),
    st.builds(lambda x, m: np.ma.array([x, x], mask=[m, False]), st.integers(-3, 3), st.booleans()),
    st.builds(
        lambda xs: pd.Series(xs, dtype=object), st.lists(st.integers(-3, 3) | st.text(max_size=1), max_size=3)
    ),
    st.sampled_from([len, raising, object(), Liar(), np.float64, set(), {1, 2}, lesson.attempt(raising)]),
)


def in_an_array(parts):
    array = np.empty(len(parts), dtype=object)
    for number, part in enumerate(parts):
        array[number] = part
    return array


answers = st.recursive(
    oddities,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3),
        st.tuples(parts, parts),
        st.dictionaries(st.integers(), parts, max_size=2),
        st.builds(iter, st.lists(parts, max_size=2)),
        st.builds(in_an_array, st.lists(parts, max_size=3)),
    ),
    max_leaves=6,
)
whole = st.integers(-3, 3)
expectations = st.one_of(
    whole,
    st.lists(whole, min_size=1, max_size=3),
    st.lists(st.lists(whole, min_size=2, max_size=2), min_size=1, max_size=2),
    st.sampled_from(["ICA", 0.1, [0.5, math.inf], 1 + 5j, [True, False]]),
)
many = settings(derandomize=True, max_examples=300, deadline=None)


def plainly(value):
    """What a person would read as numbers in nested lists: only lists and tuples of Python's own; else None."""
    if isinstance(value, list | tuple):
        parts = [plainly(item) for item in value]
        return None if None in parts else parts
    return value if type(value) in (int, float, complex) else None


@many
@given(answers, expectations, expectations)
def test_any_answer_gets_one_sentence(answer, expected, mistake):
    mistakes = [(mistake, "a mistake")] if isinstance(mistake, str) == isinstance(expected, str) else []
    result = said(answer, expected, mistakes=mistakes)
    assert result in ("right", "not done yet") or result.startswith("wrong: ")
    assert "\n" not in result
    assert len(result) < 300


@many
@given(answers, expectations)
def test_plain_numbers_are_right_only_if_they_are_equal(answer, expected):
    plain = plainly(answer)
    if plain is not None and not isinstance(expected, str) and expected != [True, False]:
        try:
            equal = np.shape(plain) == np.shape(expected) and np.allclose(
                np.array(plain, complex), np.array(expected, complex), rtol=1e-5, atol=1e-8
            )
        except (ValueError, OverflowError):  # of different lengths, or beyond a float
            equal = False
        assert (said(answer, expected) == "right") == equal


FORMS = {
    "list": lambda array: array.tolist(),
    "tuple": lambda array: tuple(array.tolist()),
    "list of arrays": list,
    "objects": lambda array: array.astype(object),
    "tensor": lambda array: torch.tensor(array, requires_grad=True),
    "list of tensors": lambda array: list(torch.tensor(array, requires_grad=True)),
    "masked array": np.ma.array,
    "complex": lambda array: array.astype(complex),
    "frame": lambda array: pd.DataFrame(array) if array.ndim == 2 else pd.Series(array),
    "read backwards": lambda array: array[::-1].copy()[::-1],
}
shapes = st.sampled_from([(1,), (3,), (2, 2), (1, 3)])


@many
@given(st.data(), shapes, st.sampled_from(sorted(FORMS)), st.sampled_from([1e-12, 1.0, 1e9]))
def test_the_same_numbers_are_right_in_every_form_and_others_in_none(data, shape, form, scale):
    count = math.prod(shape)
    values = st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-3)
    expected = scale * np.reshape(data.draw(st.lists(values, min_size=count, max_size=count)), shape)
    assert said(FORMS[form](expected.copy()), expected) == "right"
    other = expected.copy()
    other.flat[data.draw(st.integers(0, count - 1))] += 1e-3 * (scale if expected.any() else 1.0)
    assert said(FORMS[form](other), expected).startswith("wrong: ")


@many
@given(
    st.integers(-(10**12), 10**12), st.integers(1, 5), st.sampled_from([int, float, np.int64, torch.tensor])
)
def test_whole_numbers_are_told_apart(n, more, form):
    assert said(form(n), n) == "right"
    assert said(form(n + more), n) != "right"
