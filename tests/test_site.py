"""The static pages: their contents, links and figures, without a browser (tests/browser has one)."""

import itertools
import re
import subprocess
import sys
from urllib.parse import urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from labutils.course import site
from labutils.course.notebook import code_cells, find, minutes, notebooks, read, recorded, title
from labutils.errors import UsageError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the pages of the whole course, and what was wrong with them."""
    folder = tmp_path_factory.mktemp("pages") / "site"
    return folder, site.build(notebooks(), folder)


@pytest.fixture(scope="module")
def pages(built):
    """Each lesson's page, parsed, by stem."""
    return {path.stem: parse(built[0] / f"{path.stem}.html") for path in notebooks()}


def parse(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def notebook(path, *markdown):
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, markdown))), path)
    return path


def test_nothing_is_wrong_with_the_pages_of_the_course(built):
    assert built[1] == []


def test_pages_load_nothing_from_the_network(built):
    loaded = {
        address
        for path in built[0].rglob("*.html")
        for tag in parse(path).find_all(["link", "script", "img", "audio", "iframe"])
        if (address := tag.get("src") or tag.get("href"))
    }
    assert {urlsplit(address).scheme for address in loaded} <= {"", "data"}


def test_previous_and_next_go_through_the_course_in_order(pages):
    stems = list(pages)
    for before, after in itertools.pairwise(stems):
        assert pages[before].find("a", class_="next-page")["href"] == f"{after}.html"
        assert pages[after].find("a", class_="prev-page")["href"] == f"{before}.html"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_page_shows_each_figure_of_its_notebook_with_its_alternative_text(path, pages):
    outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
    stored = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    shown = [" ".join(image["alt"].split()) for image in pages[path.stem].find_all("img")]
    assert stored
    assert [alt for alt in stored if " ".join(alt.split()) not in shown] == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_page_folds_solutions_and_shows_no_record_and_no_latex(path, pages):
    cells = list(code_cells(read(path)))
    solutions = sum("solution" in cell.metadata.get("tags", []) for cell in cells)
    page = pages[path.stem]
    folded = [
        fold for fold in page.find_all("details") if fold.summary.get_text(strip=True).startswith("Solution")
    ]
    assert len(folded) == solutions
    assert not any(fold.has_attr("open") for fold in folded)
    for hidden in page.find_all(["pre", "code", "script", "style", "math"]):
        hidden.decompose()
    text = page.find("article").get_text()
    assert "x-labutils" not in text
    assert re.findall(r"\\[a-z]+|\$[^$]+\$", text) == []


def test_the_front_page_lists_the_lessons_with_their_minutes(built):
    rows = parse(built[0] / "index.html").find("article").find("table").find_all("tr")[1:]
    assert [row.a["href"] for row in rows] == [f"{path.stem}.html" for path in notebooks()]
    for row, path in zip(rows, notebooks(), strict=True):
        heading, what, *stated = (cell.get_text(strip=True) for cell in row.find_all("td"))
        assert heading == title(read(path))
        assert what
        assert tuple(map(int, stated)) == minutes(read(path))


def test_the_results_page_holds_what_was_recorded(built):
    records = recorded(read(find("9")))
    article = parse(built[0] / "results.html").find("article")
    heading = next(h for h in article.find_all("h2") if h.find("a", href="09_lstm_mnist.html"))
    table = heading.find_next("table")
    assert len(table.find_all("tr")) == len(records) + 1
    assert f"{records[0]['results']['accuracy']:.4g}" in table.get_text()


def test_search_finds_a_word_of_a_lesson(built):
    assert '"shrinkag' in (built[0] / "searchindex.js").read_text(encoding="utf-8")  # the stem of shrinkage


def test_broken_links_are_named(tmp_path):
    path = notebook(
        tmp_path / "50_links.ipynb", "# Links", '<a href="51_none.html">gone</a> <a href="#nowhere">too</a>'
    )
    problems = site.build([path], tmp_path / "out")
    assert problems == [
        "50_links.html: the link to 51_none.html leads nowhere",
        "50_links.html: the link to #nowhere leads nowhere",
    ]


def test_links_to_lessons_that_are_not_among_the_pages_are_plain_text(tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A", "First [*read*](01_linear_factor_models.ipynb) it.")
    assert site.build([path], tmp_path / "out") == []
    text = parse(tmp_path / "out" / "50_a.html").find("article")
    assert "First read it." in text.get_text()
    assert text.find("a", string="read") is None


def test_broken_links_sees_files_places_and_images(tmp_path):
    (tmp_path / "b.html").write_text('<p id="here">')
    (tmp_path / "a.html").write_text(
        '<a href="b.html">1</a> <a href="b.html#here">2</a> <a href="b.html#gone">3</a> <img src="c.png">'
        '<a href="https://example.org/x">4</a> <a href="mailto:a@example.org">5</a>'
    )
    assert site.broken_links(tmp_path) == [
        "a.html: the link to b.html#gone leads nowhere",
        "a.html: the link to c.png leads nowhere",
    ]


def test_pages_replace_those_of_an_earlier_call(tmp_path):
    first, second = notebook(tmp_path / "50_a.ipynb", "# A"), notebook(tmp_path / "51_b.ipynb", "# B")
    site.build([first], tmp_path / "out")
    site.build([second], tmp_path / "out")
    assert not (tmp_path / "out" / "50_a.html").exists()
    assert (tmp_path / "out" / "51_b.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["50_a.ipynb", "51_b.ipynb", "out"]


def test_two_notebooks_of_one_name_are_refused(tmp_path):
    (tmp_path / "copy").mkdir()
    paths = [notebook(folder / "50_a.ipynb", "# A") for folder in (tmp_path, tmp_path / "copy")]
    with pytest.raises(UsageError, match="two notebooks are named 50_a"):
        site.build(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notebook_with_the_name_of_another_page_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a page of the site is named index; rename the notebook"):
        site.build([notebook(tmp_path / "index.ipynb", "# A")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_form_is_named_and_the_pages_are_written(tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A\n\n## End\n\n### Terms\n\n| word |\n| --- |\n| ICA |")
    (problem,) = site.build([path], tmp_path / "out")
    assert problem.startswith("50_a: the table Terms must begin with | term | meaning |")
    assert (tmp_path / "out" / "50_a.html").exists()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [("# Fine", 0, ""), ("# Links\n\n[gone](51_none.ipynb)", 1, "51_none.ipynb")],
)
def test_command_says_what_is_wrong_by_its_exit_status(text, status, said, tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", text)
    command = [sys.executable, "-m", "labutils", "site", str(path), "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == status, result.stderr
    assert said in result.stderr
    assert str(tmp_path) not in result.stderr
    assert (tmp_path / "out" / "50_a.html").exists()
