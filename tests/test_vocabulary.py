"""The course's notation and terms: read from the lessons' tables, checked to agree, shown on pages."""

import nbformat
import pytest

from labutils.course import checks, notebook, vocabulary
from labutils.course.notebook import notebooks

NOTATION = "### Notation\n\n| symbol | meaning | shape |\n| --- | --- | --- |\n"
TERMS = "### Terms\n\n| term | meaning |\n| --- | --- |\n"


def lesson(*sources):
    return nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, sources)))


def stored(path, *sources):
    nbformat.write(lesson(*sources), path)
    return path


def test_the_lessons_agree():
    assert checks.vocabulary_problems(notebooks()) == []


def test_a_row_gives_an_entry_for_each_of_its_symbols():
    node = lesson(
        "# T",
        NOTATION + "| $i_t$, $f_t$ | input and forget gate: both | $H$ |\n\n### Further reading\n\n| $x$ |",
    )
    found = vocabulary.entries(node, "09_x", "Notation")
    assert [(entry.name, entry.core) for entry in found] == [
        ("$i_t$", "input and forget gate"),
        ("$f_t$", "input and forget gate"),
    ]
    assert vocabulary.entries(node, "09_x", "Terms") == []


def test_a_bar_that_is_escaped_does_not_end_a_column():
    (entry,) = vocabulary.entries(lesson(NOTATION + r"| $p$ | density of $x \| h$ | |"), "01_x", "Notation")
    assert entry.meaning == r"density of $x \| h$"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            "### Notation\n\n| symbol | meaning |\n| --- | --- |\n",
            r"must begin with \| symbol \| meaning \| shape \|",
        ),
        (NOTATION + "| $x$ | features |", "must have 3 columns"),
        (NOTATION + "| $x$ | | $d$ |", "must have 3 columns"),
    ],
)
def test_a_table_of_another_form_is_refused(table, sentence):
    with pytest.raises(vocabulary.TableError, match=sentence):
        vocabulary.entries(lesson(table), "01_x", "Notation")


@pytest.mark.parametrize(
    ("meanings", "n_conflicts"),
    [
        ({"01_a": "decoder", "02_b": "decoder: eigenvectors"}, 0),
        ({"01_a": "decoder", "02_b": "the decoder"}, 1),
        ({"01_a": "decoder", "02_b": "here another matrix"}, 0),
        ({"01_a": "here a matrix", "02_b": "decoder", "03_c": "encoder"}, 1),
        ({"07_a": "decoder", "08_b": "weights"}, 0),  # the parts of the course have letters of their own
        ({"08_a": "decoder", "11_b": "weights"}, 1),
    ],
)
def test_a_symbol_has_one_meaning_in_a_part_or_says_here(meanings, n_conflicts):
    found = [vocabulary.Entry(stem, "$W$", meaning) for stem, meaning in meanings.items()]
    assert len(vocabulary.conflicts(found, "Notation")) == n_conflicts


def test_a_term_stands_in_one_lesson():
    found = [vocabulary.Entry("01_a", "Factor", "a cause"), vocabulary.Entry("09_b", "factor", "a cause")]
    assert vocabulary.conflicts(found, "Terms") == [(found[1], found[0])]


def test_pages_are_sorted_and_link_to_the_lessons():
    found = [
        vocabulary.Entry("02_b", r"$\lambda$", "eigenvalue: largest first"),
        vocabulary.Entry("02_b", "$x$", "features: pixels"),
        vocabulary.Entry("03_c", "$x$", "features"),
        vocabulary.Entry("04_d", "$x$", "here a place"),
        vocabulary.Entry("09_e", "$x$", "input"),
    ]
    rows = [
        line for line in vocabulary.page(found, "Notation").splitlines() if line.startswith(("| $", "## "))
    ]
    assert rows == [
        "## Linear factor models",
        "| $x$ | features | [02](02_b.ipynb), [03](03_c.ipynb) |",
        "| $x$ | a place | [04](04_d.ipynb) |",
        r'| $\lambda$ <span class="letter-names" aria-hidden="true">lambda λ</span> | eigenvalue | [02](02_b.ipynb) |',
        "## Recurrent networks",
        "| $x$ | input | [09](09_e.ipynb) |",
    ]


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        (r"$\sigma^2_p$", "sigma σ"),
        (r"$\Sigma$", "sigma Σ"),
        (r"$\lambda_i \odot \varphi$", "lambda λ phi φ"),
        (r"$\hat x$", None),
        ("ICA", None),
    ],
)
def test_greek_letters_are_found_by_their_names(symbol, words):
    page = vocabulary.page([vocabulary.Entry("02_b", symbol, "a symbol")], "Notation")
    assert (f">{words}</span>" in page) if words else ("<span" not in page)


def test_the_check_names_contradictions_and_tables_that_cannot_be_read(tmp_path):
    paths = [
        stored(tmp_path / "01_a.ipynb", NOTATION + "| $x$ | features | |"),
        stored(tmp_path / "02_b.ipynb", NOTATION + "| $x$ | inputs | |"),
        stored(tmp_path / "03_c.ipynb", TERMS + "| ICA |"),
    ]
    said = list(map(str, checks.vocabulary_problems(paths)))
    assert len(said) == 2
    assert said[0].startswith(
        "02_b, table Notation: says that $x$ is 'inputs', and 01_a that it is 'features'"
    )
    assert said[1].startswith("03_c: the row '| ICA |' of the table Terms must have 2 columns")


def test_the_check_names_a_lesson_of_the_course_without_a_table(monkeypatch, tmp_path):
    paths = [stored(tmp_path / "00_a.ipynb", "# A"), stored(tmp_path / "01_b.ipynb", "# B")]
    monkeypatch.setattr(notebook, "notebooks", lambda: paths)
    assert [problem.wrong for problem in checks.vocabulary_problems(paths)] == [
        "has no table under ### Notation",
        "has no table under ### Terms",
    ]
