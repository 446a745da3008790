"""What a value must be, said in one sentence where it is not."""

import difflib
import math
import numbers
import re
from dataclasses import dataclass

FORM = (
    "(int, lowest, highest, default), (float, lowest, highest, default), (bool, default) or a tuple of words"
)
_DIGITS = r"(?:0|[1-9](?:_?[0-9]){0,399})"  # no zeros in front, and no more digits than a number can have
_WHOLE = re.compile(rf"[+-]?{_DIGITS}")
_NUMBER = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,4}})?|[+-]?inf|nan")


@dataclass(frozen=True)
class Rule:
    """What a parameter may be.

    Attributes
    ----------
    kind : {int, float, bool, str}
    lowest, highest : number
        Of a number, both included.
    words : tuple of str
        The allowed ones, if the kind is ``str``.
    default : object
        The value on the page; None if the rule does not say it.
    """

    kind: type
    lowest: float = -math.inf
    highest: float = math.inf
    words: tuple = ()
    default: object = None

    def parse(self, text):
        """Text that a person wrote, in the type that the rule asks for, where it can be; else the text itself."""
        if self.kind is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        if self.kind is int:
            return int(text) if _WHOLE.fullmatch(text) else text
        if self.kind is float:
            return float(text) if _NUMBER.fullmatch(text) else text
        return text

    def check(self, name, value):
        """Refuse a value that does not keep the rule.

        Raises
        ------
        ValueError
            In one sentence: the name, the value and what is allowed.
        """
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {_brief(value)}")
        elif self.kind is str:
            if not isinstance(value, str) or value not in self.words:
                raise ValueError(f"{name} must be one of {', '.join(self.words)}, got {_brief(value)}")
        else:
            word = {int: "a whole number", float: "a number"}[self.kind]
            allowed = numbers.Integral if self.kind is int else numbers.Real
            between = f"from {self.lowest} to {self.highest}"
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise ValueError(f"{name} must be {word} {between}, got {_brief(value)}")
            if not self.lowest <= value <= self.highest:  # also refuses nan
                raise ValueError(f"{name} must be {between}, got {_brief(value)}")


def as_rule(name, literal):
    """The rule that stands in a call of `labutils.lesson.check_parameters`.

    Parameters
    ----------
    name : str
    literal : type or tuple
        ``(int, lowest, highest, default)``, ``(float, lowest, highest, default)``, ``(bool, default)``, or the
        allowed words, the default first. The default of a number or of a bool may be left out.

    Returns
    -------
    Rule

    Raises
    ------
    ValueError
        If it has none of these forms.
    """
    if literal is bool:
        return Rule(bool)
    if isinstance(literal, tuple) and literal:
        kind, *rest = literal
        if all(isinstance(word, str) for word in literal):
            return Rule(str, words=literal, default=kind)
        if kind is bool and len(rest) == 1 and isinstance(rest[0], bool):
            return Rule(bool, default=rest[0])
        if kind in (int, float) and len(rest) in (2, 3) and all(map(_is_number, rest)) and rest[0] <= rest[1]:
            rule = Rule(kind, *rest[:2], default=rest[2] if len(rest) == 3 else None)
            if rule.default is not None:
                rule.check(f"the default of {name}", rule.default)
            return rule
    raise ValueError(f"the rule of {name} must be {FORM}, got {_brief(literal)}")


def check_value(name, value, literal):
    """Refuse a value that does not keep a rule in the form that `as_rule` takes, such as a tuple of words."""
    as_rule(name, literal).check(name, value)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _brief(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_name(name, known, what="parameter"):
    """Refuse a name, of a parameter or what else is said, that is not among `known`, suggesting the nearest one."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ValueError(f"unknown {what} {_brief(name)}; {hint}")


def check_counts(*, at_least=1, **counts):
    """Refuse the first of the values that is not a whole number of at least `at_least`."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
            allowed = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
            raise ValueError(f"{name} must be {allowed}, got {_brief(value)}")


def check_numbers(*, above=-math.inf, at_least=-math.inf, **values):
    """Refuse the first of the values that is not a finite real number, above and of at least the given ones."""
    for name, value in values.items():
        is_number = _is_number(value) and math.isfinite(value)
        if not (is_number and value > above and value >= at_least):
            bound = f" above {above:g}" if above > -math.inf else ""
            bound += f" of at least {at_least:g}" if at_least > -math.inf else ""
            raise ValueError(f"{name} must be a finite number{bound}, got {_brief(value)}")
