"""The static pages: their contents, links and figures, without a browser (tests/browser has one)."""

import base64
import itertools
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from labutils.conventions import FOLDED, RECORD_TYPE
from labutils.course import site
from labutils.course.notebook import code_cells, find, minutes, notebooks, read, recorded, title
from labutils.errors import RunError, UsageError


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
def test_a_page_folds_cells_by_their_role_and_shows_no_record_and_no_latex(path, pages):
    cells = list(code_cells(read(path)))
    page = pages[path.stem]
    folded = page.find_all("details")
    for role, label in FOLDED.items():
        labelled = [fold for fold in folded if fold.summary.get_text(strip=True).startswith(label)]
        assert len(labelled) == sum(role in cell.metadata.get("tags", []) for cell in cells)
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
    records = recorded(read(find("10")))
    article = parse(built[0] / "results.html").find("article")
    heading = next(h for h in article.find_all("h2") if h.find("a", href="10_lstm_mnist.html"))
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


SECRET = "what stands in a file of the machine"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Folder of pages of a notebook that tries everything, and of others beside it; and the problems by cell."""
    home = tmp_path_factory.mktemp("hostile")
    secret, above = home / "secret.txt", "../secret.txt"
    secret.write_text(SECRET)
    (home / "notebooks" / "figures").mkdir(parents=True)
    (home / "notebooks" / "figures" / "dot.png").write_bytes(base64.b64decode(PNG))
    script = "<script>alert(1)</script>"

    def shown(**data):
        data = {kind.replace("__", "/"): value for kind, value in data.items()}
        output = nbformat.v4.new_output("display_data", data=data)
        return nbformat.v4.new_code_cell("x = 1", outputs=[output], execution_count=1)

    record = {
        "parameters": {"a": f"1\n\n```{{include}} {secret}\n```\n\n{script}"},
        "results": {f"b\n\n{script}": f"c\n\n```{{include}} {secret}\n```"},
        "provenance": {},
    }
    table = "### {}\n\n| {} |\n| {} |\n| {} |"
    cells = {
        "title": f"# Title {script} {{download}}`{secret}`",
        "formulas": "$x_1_2$ and $y$ and $\\text{<script>alert(1)</script>}$\n\n$$\\frac{1$$",
        **{
            name: f"```{{{name}}} {path}\n```"
            for name in ("include", "literalinclude", "image", "figure", "download")
            for path in (secret, above)
        },
        "csv-table": f"```{{csv-table}} a\n:file: {secret}\n```",
        "raw": f"```{{raw}} html\n:file: {secret}\n```",
        "eval-rst": f"```{{eval-rst}}\n.. include:: {secret}\n\n.. raw:: html\n\n   {script}\n```",
        "code-cell": "```{code-cell}\n1 / 0\n```",
        "nested": f"> - ~~~{{include}} {secret}\n>   ~~~",
        "roles": f"{{download}}`a <{above}>` {{doc}}`index`",
        "images": f"![first]({above}) ![second]({secret}) ![third](https://a.example/b.png) ![dot](figures/dot.png)",
        "links": f"[first]({above}) [second](path:{secret}) [third](project:{above})",
        "html": f"{script}</article></div></body>{script}<b onclick=alert(1)>b</b>",
        "substitution": "{{ injected }}",
        "notation": table.format(
            "Notation", "symbol | meaning | shape", "--- | --- | ---", f"$x^$ | {{download}}`{secret}` {script} |"
        ),
        "table": shown(text__html=f"{script}<b>kept</b> $x_1_2$"),
        "javascript": shown(application__javascript="alert(1)", text__plain="instead"),
        "svg": shown(**{"image__svg+xml": f'<svg xmlns="http://www.w3.org/2000/svg">{script}</svg>'}),
        "markdown": shown(text__markdown=f"![a]({above}) {script}\n\n```{{include}} {secret}\n```"),
        "gif": shown(image__gif="no image"),
        "record": shown(**{RECORD_TYPE: record}),
        "raw cell": nbformat.v4.new_raw_cell(script, metadata={"format": "text/html"}),
    }  # fmt: skip
    cells = {n: nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else c for n, c in cells.items()}
    metadata = {
        "html_meta": {"description": "injected"},
        "author": "injected",
        "myst": {
            "substitutions": {"injected": "injected"},
            "enable_extensions": ["substitution", "colon_fence"],
        },
        "mystnb": {"execution_mode": "force"},
    }
    path = home / "notebooks" / "50_hostile.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells.values()), metadata=metadata), path)
    fine = notebook(path.with_name("51_fine.ipynb"), "# Fine\n\n$x$")
    untitled = notebook(path.with_name("my notes [1] {a} & b.ipynb"), "```\n# no heading\n```", "text")
    problems = site.build([path, fine, untitled], home / "out")
    by_cell = {name: [] for name in cells}
    for problem in problems:
        found = re.fullmatch(r"50_hostile, cell (\d+) \(.*?\): (.*)", problem)
        assert found, problem
        by_cell[list(cells)[int(found[1]) - 1]].append(found[2])
    return home / "out", by_cell


def test_each_thing_that_a_page_leaves_out_is_named_with_its_cell(hostile):
    quiet = {"substitution", "record"}  # shown as the text that they are
    assert {name for name, said in hostile[1].items() if not said} == quiet
    assert len(hostile[1]["formulas"]) == 3
    assert "holds a formula that cannot be rendered, x_1_2 (double subscripts)" in hostile[1]["formulas"][0]


def test_no_page_holds_a_file_of_the_machine_or_metadata_of_a_notebook(hostile):
    for path in hostile[0].rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert SECRET not in text, path
            assert path.suffix != ".html" or "injected" not in text.replace("{{ injected }}", ""), path
    assert not (hostile[0] / "_downloads").exists()


def test_no_page_holds_a_script_of_a_notebook(hostile):
    theme = {str(script) for script in parse(hostile[0] / "search.html").find_all("script")}
    for path in hostile[0].rglob("*.html"):
        page = parse(path)
        assert {str(script) for script in page.find_all("script")} <= theme, path
        assert not page.find_all(["iframe", "object", "embed", "base"])
        assert not [tag for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
        assert not page.find_all(href=re.compile("script:|^data:"))


def test_what_is_refused_is_shown_as_text_and_the_rest_as_it_is(hostile):
    article = parse(hostile[0] / "50_hostile.html").find("article")
    text = article.get_text()
    for kept in (
        "{include}",
        "{eval-rst}",
        "{download}`a <../secret.txt>`",
        "x_1_2",
        "\\frac{1",
        "kept",
        "instead",
    ):
        assert kept in text
    assert [image["alt"] for image in article.find_all("img") if image.get("alt")] == ["dot"]
    assert {"first", "second", "third"} <= set(text.split())
    assert next(code.get_text() for code in article.find_all("code", class_="tex")) == "x_1_2"
    assert parse(hostile[0] / "51_fine.html").find("math")


def test_each_page_says_what_browsers_may_run(hostile):
    for path in hostile[0].rglob("*.html"):
        first = parse(path).head.find(True)
        assert first["http-equiv"] == "Content-Security-Policy"
        assert "default-src 'none'; script-src 'self' 'sha256-" in first["content"]
        scripts = first["content"].partition("script-src")[2].partition(";")[0]
        assert "unsafe" not in scripts


def test_a_notebook_without_a_heading_is_listed_by_its_files_name(hostile):
    listed = {
        link.get_text(): link["href"] for link in parse(hostile[0] / "index.html").select(".sidebar-tree a")
    }
    assert unquote(listed["my notes [1] {a} & b"]) == "my notes [1] {a} & b.html"
    assert parse(hostile[0] / "my notes [1] {a} & b.html").h1.get_text().startswith("my notes [1] {a} & b")


def test_results_stand_below_a_link_to_their_notebook_whatever_they_hold(hostile):
    article = parse(hostile[0] / "results.html").find("article")
    assert article.h2.a["href"] == "50_hostile.html"
    assert "{include}" in article.find("table").get_text()


def test_a_trusted_notebook_keeps_its_scripts_and_still_reads_no_file(tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    path = notebook(
        tmp_path / "50_a.ipynb", "# A\n\n<b onclick='f()'>b</b><script>f = () => 1</script>",
        f"```{{include}} {tmp_path / 'secret.txt'}\n```",
    )  # fmt: skip
    (problem,) = site.build([path], tmp_path / "out", trust=True)
    assert problem.startswith("50_a, cell 2 (```{include}")
    page = parse(tmp_path / "out" / "50_a.html")
    assert page.article.find("script")
    assert page.article.b["onclick"] == "f()"
    assert not page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
    assert SECRET not in str(page)


def test_warnings_name_the_cell_without_colours_or_folders_of_the_build(tmp_path):
    path = notebook(
        tmp_path / "50_a.ipynb", "# A", "text[^1]", "```nosuchlanguage\nx\n```", "### Deep\n\n[a](b.ipynb)"
    )
    problems = site.build([path], tmp_path / "out")
    found = [
        re.match(r"50_a, cell (\d) \(", problem) for problem in problems if "leads nowhere" not in problem
    ]
    assert sorted(match[1] for match in found) == ["2", "3", "4", "4"]
    assert not re.search(r"\x1b|labutils-site|/tmp|WARNING", "".join(problems))


def test_an_error_of_the_builder_ends_in_a_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a line\nand another")

    monkeypatch.setattr(site.Sphinx, "build", fail)
    with pytest.raises(RunError, match=r"the pages cannot be built \(ValueError: a line and another\)"):
        site.build([notebook(tmp_path / "50_a.ipynb", "# A")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_not_confused(tmp_path):
    paths = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dot.png").write_bytes(base64.b64decode(PNG) + bytes([number]))
        paths.append(notebook(tmp_path / name / f"5{number}_{name}.ipynb", f"# {name}\n\n![{name}](dot.png)"))
    (problem,) = site.build(paths, tmp_path / "out")
    assert problem.startswith(
        "51_b, cell 1 (# b): shows the image dot.png; another notebook shows another image"
    )


def run_site(*arguments, cwd=None):
    command = [sys.executable, "-m", "labutils", "site", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


def test_output_among_the_notebooks_is_refused_in_a_sentence(tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A")
    result = run_site(path, "-o", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(
        r"labutils: nothing is written to .*; name another folder with --output\n", result.stderr
    )
    assert list(tmp_path.iterdir()) == [path]


def test_output_in_a_folder_of_other_files_keeps_them(tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A")
    web = tmp_path / "web"
    web.mkdir()
    (web / "CNAME").write_text("a.example")
    assert run_site(path, "-o", ".", cwd=web).returncode == 0
    assert (web / "CNAME").read_text() == "a.example"
    assert (web / "50_a.html").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Folder that is a file system of its own, of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root, and not in every container, may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_that_is_a_mount_point_ends_in_a_sentence_and_loses_no_page(small_disk, tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A")
    (small_disk / "index.html").write_text("mine")
    (small_disk / "rest").write_bytes(bytes(800_000))
    result = run_site(path, "-o", small_disk)
    assert (result.returncode, "is there already" in result.stderr) == (2, True), result.stderr
    (small_disk / "index.html").unlink()
    result = run_site(path, "-o", small_disk)
    assert result.returncode == 1
    assert re.fullmatch(
        r"labutils: cannot write to .* \(No space left on device\); .*\n", result.stderr.splitlines(True)[-1]
    )
    left = {item.name for item in small_disk.rglob("*") if item.is_file()}
    assert not [name for name in left if name.endswith((".html", ".tmp"))], left
    (small_disk / "rest").unlink()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_below_one_that_is_shut_is_refused_in_a_sentence(tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", "# A")
    (tmp_path / "shut").mkdir(mode=0o500)
    result = run_site(path, "-o", tmp_path / "shut" / "out")
    assert result.returncode == 1
    assert "cannot write to" in result.stderr


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [("# Fine", 0, ""), ("# Links\n\n[gone](51_none.ipynb)", 1, "51_none.ipynb")],
)
def test_command_says_what_is_wrong_by_its_exit_status(text, status, said, tmp_path):
    path = notebook(tmp_path / "50_a.ipynb", text)
    result = run_site(path, "--output", tmp_path / "out")
    assert result.returncode == status, result.stderr
    assert said in result.stderr
    assert str(tmp_path) not in result.stderr
    assert (tmp_path / "out" / "50_a.html").exists()


def test_odd_addresses_and_deep_markup_keep_no_page_from_being_built(tmp_path):
    odd = [
        '<a href="a%00b.html">a</a> <audio src="gone.mp3"></audio>',
        f'<a href="{"a" * 300}.html">b</a> ![c]({"c" * 300}.png)',
        "*" * 3000 + "deep" + "*" * 3000,
        "% of variance explained\n\n+++ more",
    ]
    paths = [notebook(tmp_path / "50_a.ipynb", "# A ] [b", *odd), notebook(tmp_path / "51_b.ipynb", "# B")]
    problems = site.build(paths, tmp_path / "out")
    named = "\n".join(problems)
    for what in ("a%00b.html", "gone.mp3", "nests more than 40 levels", f"shows the image {'c' * 300}.png"):
        assert what in named
    page = parse(tmp_path / "out" / "50_a.html").find("article").get_text()
    assert "% of variance explained" in page
    assert "+++ more" in page
    assert "deep" in page
    links = [a.get("href") for a in parse(tmp_path / "out" / "index.html").find("article").find_all("a")]
    assert {"50_a.html", "51_b.html"} <= set(links)


@pytest.mark.parametrize("stem", ["50%41", "50#a", "50?a", "50<b>", "50\na"])
def test_a_name_that_no_link_can_hold_is_refused(stem, tmp_path):
    with pytest.raises(UsageError, match="cannot be the name of a page; rename the notebook"):
        site.build([notebook(tmp_path / f"{stem}.ipynb", "# A")], tmp_path / "out")
