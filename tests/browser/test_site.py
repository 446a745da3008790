"""The static pages in a browser, opened from disk: nothing in the console, figures and mathematics shown, all by keyboard.

Also printed, and with scripts of a notebook in them, which the pages' policy does not let run.
"""

import nbformat
import pytest

from labutils.course import site
from labutils.course.notebook import notebooks

# What lies beyond the right edge, but for what scrolls in a box of its own within the article.
OUTSIDE = """() => [...document.querySelectorAll("article *")].filter(element => {
    if (element.getBoundingClientRect().right <= innerWidth + 1 || !element.checkVisibility()) return false;
    for (let box = element.parentElement; box.tagName != "ARTICLE"; box = box.parentElement)
        if (getComputedStyle(box).overflowX != "visible") return false;
    return true;
}).map(element => element.outerHTML.slice(0, 100))"""
STEMS = [path.stem for path in notebooks()]


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Function from a page's name to its file:// address, for the pages of the whole course."""
    folder = tmp_path_factory.mktemp("site") / "pages"
    assert site.build(notebooks(), folder) == []
    return lambda name: (folder / f"{name}.html").as_uri()


@pytest.mark.parametrize("name", ["index", *STEMS, "notation", "terms", "results", "search"])
def test_a_page_shows_figures_and_mathematics_and_fits_a_telephone(name, pages, open_page):
    page = open_page(width=390, height=844)
    page.goto(pages(name))
    for image in page.locator("article img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert image.get_attribute("alt").strip()
    drawn = page.locator("article math").evaluate_all(
        "all => all.filter(m => m.checkVisibility()).map(m => m.getBoundingClientRect())"
    )
    assert all(box["width"] > 0 and box["height"] > 0 for box in drawn)
    if name in STEMS[1:] or name == "notation":
        assert drawn
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(OUTSIDE) == []


def test_all_pages_are_reached_by_keyboard(pages, page):
    """Tab to the first link of the contents, Enter; then the right arrow through the course, and the left one back."""
    page.goto(pages("index"))
    reached = []
    while page.evaluate("document.activeElement.getAttribute('href')") != f"{STEMS[0]}.html":
        assert len(reached) < 20, f"the contents are not among the first places reached by Tab: {reached}"
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    page.keyboard.press("Enter")
    page.wait_for_url(pages(STEMS[0]))
    for stem in STEMS[1:]:
        page.keyboard.press("ArrowRight")
        page.wait_for_url(pages(stem))
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(pages(STEMS[-2]))


def test_a_solution_unfolds_by_keyboard(pages, page):
    page.goto(pages("02_pca"))
    fold = page.locator("details.hide").first
    code = fold.locator("pre").first
    assert not code.is_visible()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.is_visible()


def test_search_works_from_disk(pages, page):
    page.goto(pages("index"))
    page.keyboard.press("/")  # the shortcut to the search field
    page.keyboard.type("shrinkage")
    page.keyboard.press("Enter")
    page.locator("#search-results a[href*='06_sparse_coding']").first.click()
    page.wait_for_url(f"{pages('06_sparse_coding')}*")
    assert "shrinkage" in page.locator("article").inner_text().lower()


def test_on_a_telephone_the_contents_open_and_lead_to_a_lesson(pages, open_page):
    page = open_page(width=390, height=844)
    page.goto(pages("index"))
    link = page.locator(f".sidebar-tree a[href='{STEMS[3]}.html']")
    assert not link.is_visible() or link.bounding_box()["x"] < 0
    page.locator(".nav-overlay-icon").first.click()
    link.click()
    page.wait_for_url(pages(STEMS[3]))


@pytest.mark.parametrize("letter", ["lambda", "λ"])
def test_search_finds_a_letter_on_the_page_of_symbols(letter, pages, page):
    page.goto(f"{pages('search')}?q={letter}")
    page.locator("#search-results a[href*='notation']").first.click()
    page.wait_for_url(f"{pages('notation')}*")
    assert letter in page.locator("article").text_content()


def test_a_printed_page_holds_solutions_below_their_headings_and_wraps_code(pages, open_page):
    page = open_page(width=700, height=900)
    page.goto(pages("02_pca"))
    code = page.locator("details.hide pre").first
    hint = page.locator("details:not(.hide) > :not(summary)").first
    assert not code.is_visible()
    page.emulate_media(media="print")
    assert code.is_visible()
    assert code.bounding_box()["height"] > 10
    assert hint.is_visible()
    assert page.locator("details.hide summary").first.is_visible()
    wide = "pre => pre.scrollWidth > pre.clientWidth + 1"
    assert not any(pre.evaluate(wide) for pre in page.locator("article pre").all())


def test_no_script_runs_but_those_of_the_theme(tmp_path, page, console):
    """Not even one that got past the cleaning: it is put into the finished page here."""
    path = tmp_path / "50_a.ipynb"
    cells = ["# A", "<script>said = 'in Markdown'</script>", "<img src='' onerror=\"said = 'by an event'\">"]
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, cells))), path)
    site.build([path], tmp_path / "out")
    built = tmp_path / "out" / "50_a.html"
    assert "said" not in built.read_text(encoding="utf-8").replace("_said", "")
    attack = "<script>said = 'inline'</script><img src='none.png' onerror=\"said = 'by an event'\">"
    attack += "<img src='https://a.example/b.png'><script src='https://a.example/c.js'></script>"
    text = built.read_text(encoding="utf-8").replace("</article>", f"{attack}</article>")
    built.write_text(text, encoding="utf-8")
    console.allow(
        "Content Security Policy|ERR_FILE_NOT_FOUND|asked another host"
    )  # asked, and then not let out
    blocked = []
    page.on("requestfailed", lambda request: blocked.append((request.url, request.failure)))
    page.goto(built.as_uri())
    page.wait_for_load_state("networkidle")
    assert page.evaluate("typeof said") == "undefined"
    assert {("https://a.example/b.png", "csp"), ("https://a.example/c.js", "csp")} <= set(blocked)
    assert page.evaluate("document.body.dataset.theme") == "auto"  # set by the theme's inline script
    assert sum("Content Security Policy" in line for line in console.errors) >= 3


def test_scripts_of_a_trusted_notebook_run(tmp_path, page):
    path = tmp_path / "50_a.ipynb"
    cells = ["# A", "<script>said = 'in Markdown'</script>"]
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, cells))), path)
    site.build([path], tmp_path / "out", trust=True)
    page.goto((tmp_path / "out" / "50_a.html").as_uri())
    assert page.evaluate("said") == "in Markdown"
