"""Rules of values: read from a call, applied to values and to the words that people write."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labutils.rules import Rule, as_rule, check_counts, check_name, check_numbers


@pytest.mark.parametrize(
    ("literal", "rule"),
    [
        ((int, 1, 9), Rule(int, 1, 9)),
        ((int, 1, 9, 3), Rule(int, 1, 9, default=3)),
        ((float, 0.5, 2, 1), Rule(float, 0.5, 2, default=1)),
        (("a", "b"), Rule(str, words=("a", "b"), default="a")),
        (bool, Rule(bool)),
        ((bool, True), Rule(bool, default=True)),
    ],
)
def test_rules_of_every_form_are_read(literal, rule):
    assert as_rule("x", literal) == rule


@pytest.mark.parametrize(
    "literal",
    [
        int,
        float,
        str,
        (),
        (int, 0),
        (int,),
        (int, 9, 1),
        (int, "a", "b"),
        (int, 0, 9, 3, 4),
        ("a", 1),
        (bool, 1),
        7,
        None,
        [int, 0, 9],
        (int, 0, 9, 12),
        (int, 0, 9, 0.5),
        (float, 0, float("nan")),
        (str, "a"),
        (int, True, 9),
    ],
)
def test_rules_of_another_form_are_refused(literal):
    with pytest.raises(ValueError, match=r"the (rule|default) of x must be"):
        as_rule("x", literal)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (int, "-12", -12),
        (int, "1_000", 1000),
        (int, "010", "010"),  # eight or ten: refused by the check, not guessed
        (int, "1:30", "1:30"),
        (int, "٣", "٣"),
        (int, " 3", " 3"),
        (int, "3.0", "3.0"),
        (int, "0x10", "0x10"),
        (int, "1e3", "1e3"),
        (int, "1__0", "1__0"),
        (int, "1_", "1_"),
        (int, "9" * 5000, "9" * 5000),
        (float, "1_", "1_"),
        (float, "9" * 5000, "9" * 5000),
        (float, "1e-3", 0.001),
        (float, ".5", 0.5),
        (float, "2.", 2.0),
        (float, "010.5", "010.5"),
        (float, "1,5", "1,5"),
        (float, "infinity", "infinity"),
        (bool, "True", True),
        (bool, "false", False),
        (bool, "yes", "yes"),
        (bool, "1", "1"),
        (str, "010", "010"),
    ],
)
def test_words_become_what_they_are_written_as(kind, text, value):
    parsed = Rule(kind).parse(text)
    assert (type(parsed), parsed) == (type(value), value)


@settings(max_examples=2000, derandomize=True, deadline=None)
@given(st.integers())
def test_every_whole_number_is_read_as_it_is_written(number):
    assert Rule(int).parse(str(number)) == number


@settings(max_examples=2000, derandomize=True, deadline=None)
@given(st.floats(allow_nan=False))
def test_every_number_is_read_as_it_is_written(number):
    assert Rule(float).parse(repr(number)) == number


@settings(max_examples=2000, derandomize=True, deadline=None)
@given(st.text(max_size=30), st.sampled_from([int, float, bool, str]))
def test_no_text_breaks_a_rule(text, kind):
    rule = Rule(kind, 0, 9, words=("a",))
    parsed = rule.parse(text)
    with contextlib.suppress(ValueError):
        rule.check("x", parsed)
        assert isinstance(parsed, kind)


def test_a_long_value_is_shortened_in_its_message():
    with pytest.raises(ValueError, match="got") as caught:
        Rule(int, 0, 9).check("x", "9" * 5000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, float("nan")])
def test_counts_are_positive_integers(value):
    with pytest.raises(ValueError, match="n must be a positive integer, got"):
        check_counts(m=1, n=value)
    check_counts(n=1, at_least=0)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, {"above": 0}, "r must be a finite number above 0, got 0"),
        (-1, {"at_least": 0}, "r must be a finite number of at least 0, got -1"),
        (float("inf"), {}, "r must be a finite number, got inf"),
        (float("nan"), {"at_least": 0}, "r must be a finite number of at least 0, got nan"),
        ("1", {}, "r must be a finite number, got '1'"),
        (True, {}, "r must be a finite number, got True"),
        (1j, {}, "r must be a finite number, got 1j"),
    ],
)
def test_numbers_out_of_bounds_are_refused(value, bounds, message):
    with pytest.raises(ValueError, match="r must be") as caught:
        check_numbers(r=value, **bounds)
    assert str(caught.value) == message
    check_numbers(r=0.5, **bounds)


def test_a_name_is_suggested():
    with pytest.raises(ValueError, match="unknown record 'accuracyy'; did you mean 'accuracy'"):
        check_name("accuracyy", ["accuracy", "loss"], "record")
