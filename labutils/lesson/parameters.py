"""A lesson's set-up, and the check of its parameters."""

import ast
import inspect
import os
import sys

import matplotlib.pyplot as plt
import threadpoolctl

from labutils.lesson.figures import STYLE
from labutils.rules import as_rule, check_name

_rules, _values = {}, {}  # what check_parameters was given and found, for `at_defaults` and `record`


def setup(seed):
    """Prepare a notebook: one thread, the course's figure style, torch's generator seeded.

    One thread a kernel: two kernels with two threads each on two cores were several times slower than with
    one each, and one thread also keeps results the same from run to run.

    Parameters
    ----------
    seed : int
        Seed of torch's global generator, which draws initial weights, in a lesson that has imported torch.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # for libraries that are imported later
    threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(1)
        torch.manual_seed(seed)
    plt.rcParams.update(STYLE)


def check_parameters(**rules):
    """Refuse unknown parameter names, wrong types and values out of range.

    Call it in the cell after the notebook's parameters cell, with one rule for each parameter. The rules
    must be literals, because the runner reads them from the page and checks before a kernel starts.

    Parameters
    ----------
    **rules
        For each parameter ``(int, lowest, highest, default)``, ``(float, lowest, highest, default)``,
        ``(bool, default)``, or a tuple of the allowed words, the default first. The default is the value on
        the page.

    Raises
    ------
    ValueError
        In one sentence: the name, the value and what is allowed.
    """
    namespace = inspect.currentframe().f_back.f_globals
    for name in _injected_names(namespace.get("In", [])):
        check_name(name, rules)
    read = {name: as_rule(name, literal) for name, literal in rules.items()}
    for name, rule in read.items():
        if name not in namespace:
            raise ValueError(f"parameter {name!r} is not set; run the parameters cell first")
        rule.check(name, namespace[name])
    for kept, new in ((_rules, read), (_values, {name: namespace[name] for name in rules})):
        kept.clear()
        kept.update(new)


def values():
    """The parameters of this run by name, as the last `check_parameters` found them."""
    return dict(_values)


def at_defaults(*names):
    """Whether parameters have the values of the page, for which the bands of `expect` were measured.

    Parameters
    ----------
    *names : str
        The parameters that matter; none means all but ``seed``, over which bands are measured.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If a parameter has no rule, or its rule does not say the default.
    """
    for name in names:
        check_name(name, _rules)
    chosen = names or [name for name in _rules if name != "seed"]
    unsaid = [name for name in chosen if _rules[name].default is None]
    if unsaid:
        raise ValueError(
            f"the rule of {unsaid[0]} must say its default, as in (int, lowest, highest, default)"
        )
    return all(_values[name] == _rules[name].default for name in chosen)


def _injected_names(history):
    """Names assigned in the cell that papermill injected, if it did."""
    injected = [source for source in history if source.startswith("# Parameters\n")]
    statements = ast.parse(injected[-1]).body if injected else []
    targets = [target for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
