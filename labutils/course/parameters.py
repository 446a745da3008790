"""The parameters of a notebook: rules read off its page, values read and checked before a kernel starts."""

import ast
import copy
import itertools

from labutils import NOTEBOOKS
from labutils.course import settings
from labutils.course.notebook import code_cells, parameters_cells, parse, read
from labutils.errors import NotebookError, UsageError
from labutils.rules import as_rule, check_name

QUICK = NOTEBOOKS.parent / "tests" / "quick.yml"
MOST_RUNS = 100_000  # of a grid
_RULE_TYPES = {"int": int, "float": float, "bool": bool}


def read_rules(node, stem):
    """Rules of a notebook's parameters, as its own `labutils.lesson.check_parameters` call says them.

    Parameters
    ----------
    node : nbformat.NotebookNode
    stem : str
        Its name, for messages.

    Returns
    -------
    dict of str to labutils.rules.Rule

    Raises
    ------
    NotebookError
        If a rule is not a literal, or not of a form that is allowed.
    UsageError
        If there is no such call.
    """
    for cell in code_cells(node):
        if "check_parameters" not in cell.source:
            continue
        try:
            tree = parse(cell)
        except SyntaxError as error:
            raise NotebookError(
                f"{stem}: the cell that checks the parameters is not Python ({error.msg})"
            ) from None
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and _called_name(call) == "check_parameters":
                if call.args or any(keyword.arg is None for keyword in call.keywords):
                    raise NotebookError(
                        f"{stem}: check_parameters takes rules by name, as in seed=(int, 0, 9, 0)"
                    )
                return {k.arg: _rule(k.arg, k.value, stem) for k in call.keywords}
    raise UsageError(f"{stem} does not check its parameters, so none can be passed to it")


def defaults(node):
    """Values of the parameters on a notebook's page, those that are literals."""
    found = {}
    for cell in parameters_cells(node):
        try:
            statements = parse(cell).body
        except SyntaxError:
            continue
        for statement in statements:
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and statement.value
            ):
                try:
                    found[statement.target.id] = ast.literal_eval(statement.value)
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    continue
    return found


def from_pairs(pairs, rules, *, lists=False):
    """Parameters given as ``name=value``, in the types that the rules ask for.

    Parameters
    ----------
    pairs : iterable of str
    rules : dict of str to Rule
    lists : bool
        Whether a value may be several, separated by commas.

    Raises
    ------
    UsageError
        If a pair has another form, or a name is given twice.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"a parameter is passed as name=value, got {pair[:80]!r}")
        if name in values:
            raise UsageError(f"the parameter {name} is given twice")
        texts = text.split(",") if lists else [text]
        parsed = [rules[name].parse(t) if name in rules else t for t in texts]
        values[name] = parsed if lists else parsed[0]
    return values


def from_settings(values, rules):
    """Parameters from a file of settings, whose plain words are read as those of the command line are."""

    def convert(name, value):
        if isinstance(value, list):
            return [convert(name, item) for item in value]
        return rules[name].parse(str(value)) if isinstance(value, settings.Plain) and name in rules else value

    return {name: convert(name, value) for name, value in values.items()}


def by_notebook(content, stems, name):
    """What a file of settings holds for each of several notebooks.

    Parameters
    ----------
    content : dict or list
        A mapping of parameters, a list of such mappings, or by notebook one of the two.
    stems : list of str
        Names of the notebooks.
    name : path-like
        The file, for messages.

    Returns
    -------
    dict of str to list of dict
        By notebook its sets of parameters, before lists of values are combined.

    Raises
    ------
    UsageError
        If the file holds something else, or names another notebook.
    """
    if isinstance(content, dict) and content and all(map(_is_set_or_sets, content.values())):
        given = {}
        for key, value in content.items():
            meant = [stem for stem in stems if key in (stem, stem.split("_")[0])]
            if len(meant) != 1:
                what = "there is no notebook" if not meant else "several notebooks go by"
                raise UsageError(
                    f"{name}: {what} {key[:80]!r} among those to run; there are {', '.join(stems)}"
                )
            if meant[0] in given:
                raise UsageError(f"{name}: {meant[0]} is named twice")
            given[meant[0]] = _as_sets(value, name)
        return {stem: given.get(stem, [{}]) for stem in stems}
    return dict.fromkeys(stems, _as_sets(content, name))


def _as_sets(content, name):
    found = content if isinstance(content, list) else [content]
    is_good = found and all(isinstance(values, dict) for values in found)
    if not is_good or any(isinstance(value, dict) for values in found for value in values.values()):
        raise UsageError(f"{name} must hold lines of the form name: value, or a list of such sets")
    return found


def sets(path, small, of_file, pairs, grid):
    """All sets of parameters that a notebook is to be run at.

    Parameters
    ----------
    path : pathlib.Path
    small : dict
        Values of the quick run.
    of_file : list of dict
        Sets from a file of settings.
    pairs, grid : iterable of str
        From the command line, ``name=value`` and ``name=value,value``.

    Returns
    -------
    list of dict
        What is given later counts: quick values, file, command line. Lists of values are combined.
    """
    if not (small or any(of_file) or pairs or grid):
        return [{}]
    rules = read_rules(read(path), path.stem)
    once, several = from_pairs(pairs, rules), from_pairs(grid, rules, lists=True)
    twice = once.keys() & several.keys()
    if twice:
        raise UsageError(f"the parameter {min(twice)} is given twice, with -p and with -g")
    base = from_settings(small, rules)
    return [c for values in of_file for c in expand(base | from_settings(values, rules) | once | several)]


def _is_set_or_sets(value):
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(v, dict) for v in value))


def validate(values, rules, stem):
    """Refuse unknown names, wrong types and values out of range before anything runs.

    Parameters
    ----------
    values : dict
        By name the parameters that one run changes.
    rules : dict of str to Rule
    stem : str
        Name of the notebook, for the message.

    Raises
    ------
    UsageError
        One sentence that names the notebook, the parameter and what is allowed.
    """
    try:
        for name, value in values.items():
            check_name(name, rules)
            rules[name].check(name, value)
    except ValueError as error:
        raise UsageError(f"{stem}: {error}") from None


def quick_parameters():
    """Parameters of the quick run: notebook stem -> name -> value, as a file of settings holds them."""
    return settings.read(QUICK)


def expand(values):
    """All combinations of parameters, some of which have a list of values.

    Parameters
    ----------
    values : dict
        By name a value, or a list of values.

    Returns
    -------
    list of dict
        The last name changes fastest.

    Raises
    ------
    UsageError
        If a list is empty, or there are more than `MOST_RUNS` combinations.
    """
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    n_runs = 1
    for name, items in lists.items():
        if not items:
            raise UsageError(f"the list of values of {name} is empty")
        n_runs *= len(items)
    if n_runs > MOST_RUNS:
        raise UsageError(f"these lists combine to {n_runs} runs; at most {MOST_RUNS} are allowed")
    return [dict(zip(lists, chosen, strict=True)) for chosen in itertools.product(*lists.values())]


def inject(node, values):
    """Put changed parameters into a copy of a notebook, as papermill does.

    Parameters
    ----------
    node : nbformat.NotebookNode
    values : dict

    Returns
    -------
    nbformat.NotebookNode
    """
    node = copy.deepcopy(node)
    if not values:
        return node
    from papermill.parameterize import parameterize_notebook  # slow to import

    for cell in node.cells:  # papermill looks for them
        cell.metadata.setdefault("tags", [])
    node.metadata.setdefault("papermill", {})
    return parameterize_notebook(node, values, kernel_name="python3", language="python")


def _called_name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def _rule(name, node, stem):
    try:
        return as_rule(name, _literal(node))
    except ValueError as error:
        raise NotebookError(f"{stem}: {error}") from None


def _literal(node):
    """Evaluate a rule: a literal in which the names of types may stand."""
    if isinstance(node, ast.Name) and node.id in _RULE_TYPES:
        return _RULE_TYPES[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(map(_literal, node.elts))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"the rule {ast.unparse(node)[:80]!r} is not a literal") from None
