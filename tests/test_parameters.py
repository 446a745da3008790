"""The parameters of a notebook: read off its page, from the command line and from files, and checked."""

import itertools

import nbformat
import pytest

from labutils import data
from labutils.course import parameters, settings
from labutils.course.notebook import notebooks, read
from labutils.errors import NotebookError, UsageError
from labutils.rules import Rule


def page(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_rules_are_read_from_the_page():
    source = 'lesson.check_parameters(n=(int, 1, 10, 2), kind=("a", "b"), rate=(float, 0, 1), flag=bool)'
    assert parameters.read_rules(page("x = 1", f"%matplotlib inline\n{source}"), "nb") == {
        "n": Rule(int, 1, 10, default=2),
        "kind": Rule(str, words=("a", "b"), default="a"),
        "rate": Rule(float, 0, 1),
        "flag": Rule(bool),
    }


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("check_parameters(n=(int, 1, 2**31))", r"nb: the rule '2 \*\* 31' is not a literal"),
        ("check_parameters(seed=int)", "nb: the rule of seed must be"),
        ("check_parameters(seed=(int, 0))", "nb: the rule of seed must be"),
        ("check_parameters(seed=())", "nb: the rule of seed must be"),
        ("check_parameters(**rules)", "nb: check_parameters takes rules by name"),
        ("check_parameters((int, 0, 1))", "nb: check_parameters takes rules by name"),
        ("check_parameters(n=(int, 1", "nb: the cell that checks the parameters is not Python"),
        ("check_parameters(n=" + "(" * 300 + ")" * 300 + ")", "nb: "),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(source, sentence):
    with pytest.raises(NotebookError, match=sentence):
        parameters.read_rules(page(source), "nb")


def test_a_notebook_without_rules_takes_no_parameters():
    with pytest.raises(UsageError, match="nb does not check its parameters, so none can be passed to it"):
        parameters.read_rules(page("x = 1"), "nb")


def test_defaults_are_those_of_the_page_that_are_literals():
    node = page('n: int = 3  # n\nkind: str = "a"\nm: int = 2 + 2\nk: int\nz = 1', "%time x: int = 3")
    node.cells[0].metadata.tags = ["parameters"]
    assert parameters.defaults(node) == {"n": 3, "kind": "a"}


RULES = {"n": Rule(int, 0, 9), "rate": Rule(float, 0, 1), "kind": Rule(str, words=("a", "1:30"))}


def test_pairs_take_the_types_of_their_rules():
    pairs = ["n=3", "rate=1e-3", "kind=1:30", "other=7"]
    assert parameters.from_pairs(pairs, RULES) == {"n": 3, "rate": 1e-3, "kind": "1:30", "other": "7"}
    assert parameters.from_pairs(["n=1,2"], RULES, lists=True) == {"n": [1, 2]}
    with pytest.raises(UsageError, match="the parameter n is given twice"):
        parameters.from_pairs(["n=1", "n=2"], RULES)
    with pytest.raises(UsageError, match="a parameter is passed as name=value, got '=3'"):
        parameters.from_pairs(["=3"], RULES)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("n: 3\nrate: 1e-3\nkind: 1:30", {"n": 3, "rate": 1e-3, "kind": "1:30"}),
        ("n: [1, 2]\nrate: [.5, 1]", {"n": [1, 2], "rate": [0.5, 1.0]}),
        ('n: "3"', {"n": "3"}),  # in quotation marks it is text, and the check refuses it
        ("n: 010", {"n": "010"}),
        ("n: 1:30", {"n": "1:30"}),
        ("n: 2024-02-30", {"n": "2024-02-30"}),
        ("other: 1", {"other": "1"}),
    ],
)
def test_words_of_a_file_are_read_as_those_of_the_command_line(text, values):
    assert parameters.from_settings(settings.parse(text, "f"), RULES) == values


def test_lists_are_combined_with_the_last_name_changing_fastest():
    assert parameters.expand({"a": [1, 2], "b": 5, "c": ["x", "y"]}) == [
        {"a": a, "b": 5, "c": c} for a, c in itertools.product([1, 2], ["x", "y"])
    ]
    assert parameters.expand({}) == [{}]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seed": []}, "the list of values of seed is empty"),
        ({"a": list(range(1000)), "b": list(range(1000))}, "these lists combine to 1000000 runs"),
    ],
)
def test_an_empty_or_endless_grid_is_refused(values, sentence):
    with pytest.raises(UsageError, match=sentence):
        parameters.expand(values)


def test_dataset_names_of_the_lessons_are_the_packages():
    rules = [parameters.read_rules(read(path), path.stem).get("dataset") for path in notebooks()]
    assert {rule.words for rule in rules if rule is not None} <= {data.IMAGE_SETS, data.TEXTS}
