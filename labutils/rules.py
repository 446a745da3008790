"""What a value must be, said in one sentence where it is not."""

import difflib
import math
import numbers


def check_name(name, known, what="parameter"):
    """Refuse a name, of a parameter or what else is said, that is not among `known`, suggesting the nearest one."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")


def check_value(name, value, rule):
    """Refuse a value that does not keep its rule.

    Parameters
    ----------
    name : str
    value : object
    rule : type or tuple
        ``(int, lowest, highest)``, ``(float, lowest, highest)``, a tuple of the allowed strings, or ``bool``.

    Raises
    ------
    ValueError
        In one sentence: the name, the value and what is allowed.
    """
    if rule is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
    elif isinstance(rule[0], str):
        if value not in rule:
            raise ValueError(f"{name} must be one of {', '.join(rule)}, got {value!r}")
    else:
        kind, lowest, highest = rule
        word = {int: "a whole number", float: "a number"}[kind]
        allowed = numbers.Integral if kind is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ValueError(f"{name} must be {word} from {lowest} to {highest}, got {value!r}")
        if not lowest <= value <= highest:  # also refuses nan
            raise ValueError(f"{name} must be from {lowest} to {highest}, got {value!r}")


def check_counts(*, at_least=1, **counts):
    """Refuse the first of the values that is not a whole number of at least `at_least`."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
            allowed = "a positive integer" if at_least == 1 else f"an integer of at least {at_least}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_numbers(*, above=-math.inf, at_least=-math.inf, **values):
    """Refuse the first of the values that is not a finite real number, above and of at least the given ones."""
    for name, value in values.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not (is_number and value > above and value >= at_least):
            bound = f" above {above:g}" if above > -math.inf else ""
            bound += f" of at least {at_least:g}" if at_least > -math.inf else ""
            raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")
