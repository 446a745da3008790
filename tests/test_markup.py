"""What pages may hold: formulas that can be rendered, and markup that neither runs nor loads nor reads anything."""

import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from labutils.course import markup

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="{onload}">{inner}</svg>'


def wrong(source):
    """What is wrong with a Markdown cell."""
    return [what for what, _ in markup.problems(nbformat.v4.new_markdown_cell(source))]


def wrong_output(**data):
    """What is wrong with an output, by its types, whose slashes are written as two underscores."""
    data = {kind.replace("__", "/"): value for kind, value in data.items()}
    output = nbformat.v4.new_output("display_data", data=data)
    return [what for what, _ in markup.problems(nbformat.v4.new_code_cell(outputs=[output]))]


@pytest.mark.parametrize(
    ("tex", "why"),
    [
        (r"\frac{1", "a part is missing"),
        ("x_1_2", "double subscripts"),
        ("x^1^2", "double superscripts"),
        (r"\left( x", "extra left or missing right"),
        (r"\\left( x", "is a line break and the word left"),
        (r"x \right)", "extra left or missing right"),
        ("x^", "missing"),
        (r"\sqrt", "no available tokens"),
        (r"\begin{matrix}", "no available tokens"),
        (r"\begin{", "value"),
        (r"\bigl", "stop iteration"),
        ("", "no available tokens"),
        ("{" * 3000, "recursion"),
        ("x" * 5001, "it has 5001 characters; 5000 are allowed"),
        ("a}", "the braces do not match"),
        (r"\unknowncommand x", r"\unknowncommand is not known"),
        (r"\text{<script>alert(1)</script>}", "it holds HTML"),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "it aligns by &, which pages do not"),
        (r"\mathop{\rm argmin}_x", "an operator that is built of others is not known"),
        (r"\mathrel{:=}", "an operator that is built of others is not known"),
        (r"\big\{x\big\}", "an operator that is built of others is not known"),
        (r"\operatorname{arg\,max}", "a part is missing"),
    ],
)
def test_a_formula_that_cannot_be_rendered_says_why_and_is_shown_as_text(tex, why):
    with pytest.raises(markup.FormulaError) as raised:
        markup.mathml(tex)
    assert why in str(raised.value)
    shown = BeautifulSoup(markup.formula(tex), "html.parser")
    assert shown.code.get_text() == tex
    assert [tag.name for tag in shown.find_all(True)] == ["code"]


@pytest.mark.parametrize(
    "tex",
    [
        r"\left. x \right|",
        r"\arg\min_h \|x - h\|^2",
        r"\{a\}",
        r"\frac{1}{2}",
        r"\begin{bmatrix} a \\ b \end{bmatrix}",
        "a < b",
    ],
)
def test_a_formula_that_can_be_rendered_is_mathml(tex):
    shown = BeautifulSoup(markup.mathml(tex, "block"), "html.parser")
    assert shown.math["display"] == "block"
    assert "\\" not in shown.get_text()


def test_links_in_formulas_are_left_out():
    assert "javascript" not in markup.mathml(r"\href{javascript:alert(1)}{x}")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(r"\{}[]()_^&$<>'=lefrightcabginds 12", max_size=40))
def test_no_formula_ends_in_a_traceback_or_in_html(tex):
    shown = BeautifulSoup(markup.formula(tex), "html.parser")
    assert {tag.name for tag in shown.find_all(True)} <= {*markup._MATHML, "code"}


# HTML that runs, loads or leads to files, and what is named
ACTIVE = {
    "<script>alert(1)</script>": "holds <script>",
    '<img src="a.png" onerror="alert(1)">': "holds onerror",
    "<b onclick=alert(1)>b</b>": "holds onclick",
    '<a href="javascript:alert(1)">a</a>': "holds href=javascript:alert(1)",
    '<a href=" java\tscript:alert(1)">a</a>': "holds href= java\tscript:alert(1)",
    '<a href="data:text/html,x">a</a>': "holds href=data:text/html,x",
    '<a href="file:///etc/passwd">a</a>': "holds href=file:///etc/passwd",
    '<iframe src="a.html"></iframe>': "holds <iframe>",
    '<form action="a"><input></form>': "holds <form>",
    '<meta http-equiv="refresh" content="0;url=a">': "holds <meta>",
    "<style>@import url(http://a.example)</style>": "holds <style>",
    '<p style="background: url(http://a.example)">p</p>': "holds a style that loads",
    '<link rel="stylesheet" href="a.css">': "holds <link>",
    '<base href="http://a.example">': "holds <base>",
    "<object data=a></object>": "holds <object>",
    "<svg><script>1</script></svg>": "holds <svg>",
    "<p>a</p><!-- <b>b</b>": "holds a comment that does not end",
    '<img src="http://a.example/x.png">': "holds src=http://a.example/x.png",
    '<img src="//a.example/x.png">': "holds src=//a.example/x.png",
    '<img src="/etc/passwd">': "holds src=/etc/passwd",
    '<img src="&#1;//a.example/x.png">': "holds src=//a.example/x.png",
    '<a href="&#1;/etc/passwd">a</a>': "holds href=/etc/passwd",
    '<img src="a.png" srcset="http://a.example 2x">': "holds srcset",
    "</article></div><script>1</script>": "holds <script>",
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">': "holds <noscript>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>": "holds <mglyph>",
}
REMAINS = r"<(script|iframe|form|input|meta|style|link|base|object|svg|noscript|mglyph)|\son\w+=|script:|data:text|file:|http:"


@pytest.mark.parametrize(("shown", "what"), ACTIVE.items(), ids=ACTIVE.values())
def test_active_html_is_left_out_and_named(shown, what):
    cleaned = markup.clean(shown)
    assert not re.search(REMAINS, cleaned), cleaned
    assert "/etc/passwd" not in cleaned
    assert "//a.example" not in cleaned
    assert what in wrong(shown)
    assert what in wrong_output(text__html=shown)
    node = nbformat.v4.new_markdown_cell(shown)
    assert list(markup.problems(node, trust=True)) == []


@pytest.mark.parametrize(
    "shown",
    [
        (
            '<div><table border="1" class="dataframe"><thead><tr style="text-align:right"><th rowspan="2" valign="top">a</th>'
            "</tr></thead><tbody><tr><td>1</td></tr></tbody></table></div>"
        ),
        "<details><summary>Hint</summary>Two and two.</details>",
        (
            '<figure style="margin:0"><figcaption>a</figcaption><audio controls="" aria-label="b" style="display:block" '
            'src="data:audio/wav;base64,UklGRg=="></audio></figure>'
        ),
        '<img src="data:image/png;base64,iVBORw0KGgo=" alt="a"><a href="02_pca.html#x">b</a><a href="#y">c</a>',
        '<a href="https://example.org/a?b=c:d">a</a><a href="mailto:a@example.org">b</a>',
    ],
)
def test_what_lessons_show_is_kept_as_it_is(shown):
    assert markup.clean(shown) == shown
    assert wrong(shown) == wrong_output(text__html=shown) == []


def test_the_style_that_pandas_gives_each_table_is_not_named():
    assert wrong_output(text__html="<style scoped>td {}</style><p>p</p>") == []
    assert markup.clean("<style scoped>td {}</style><p>p</p>") == "<p>p</p>"


@pytest.mark.parametrize(
    ("onload", "inner", "passive"),
    [
        ("", '<rect width="3"/><use href="#a"/><style>rect {fill: url(#a)}</style>', True),
        ("alert(1)", "", False),
        ("", "<script>alert(1)</script>", False),
        ("", "<foreignObject/>", False),
        ("", '<image xlink:href="http://a.example/x.png"/>', False),
        ("", '<a href="javascript:alert(1)"/>', False),
        ("", "<style>@import url(http://a.example)</style>", False),
        ("", '<rect style="fill: url(http://a.example)"/>', False),
        ("", '<set attributeName="href" to="javascript:alert(1)"/>', False),
        ("", "<rect", False),
        (
            "",
            '<h:meta xmlns:h="http://www.w3.org/1999/xhtml" http-equiv="refresh" content="0;url=x"/>',
            False,
        ),
        ("", '<h:video xmlns:h="http://www.w3.org/1999/xhtml" poster="x"/>', False),
        ("", "<style><g/>@import url(http://a.example)</style>", False),
        ("", '<?xml-stylesheet href="a.css"?>', False),
        ("", '<!DOCTYPE svg [<!ENTITY a "b">]>', False),
    ],
)
def test_an_svg_only_draws(onload, inner, passive):
    svg = SVG.format(onload=onload, inner=inner).replace(' onload=""', "")
    assert markup.is_passive_image(svg) is passive
    named = wrong_output(**{"image__svg+xml": svg})
    assert named == ([] if passive else ["stores image/svg+xml that is broken or does more than draw"])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"application__javascript": "alert(1)"}, "stores application/javascript"),
        ({"application__vnd.jupyter.widget-view+json": {}}, "stores application/vnd.jupyter.widget-view+json"),
        ({"image__gif": "no image"}, "stores image/gif that is broken or does more than draw"),
        ({"text__html": "$x_1_2$"}, "holds a formula that cannot be rendered, x_1_2 (double subscripts)"),
        ({"text__html": "$a &lt; \\frac{1$"}, "holds a formula that cannot be rendered, a < \\frac{1 (a part is missing)"),
        ({"text__markdown": "![a](../b.png)"}, "shows the image ../b.png"),
        ({"text__latex": "$x_1_2$"}, "holds a formula that cannot be rendered, x_1_2 (double subscripts)"),
    ],
)  # fmt: skip
def test_outputs_that_a_page_does_not_show_are_named(data, what):
    assert wrong_output(**data) == [what]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("```{include} /etc/passwd\n```", "holds the directive {include}"),
        ("``` {include} a\n```", "holds the directive {include}"),
        ("> - ~~~{literalinclude} a\n>   ~~~", "holds the directive {literalinclude}"),
        ("```{eval-rst}\n.. include:: a\n```", "holds the directive {eval-rst}"),
        ("```{csv-table} a\n:file: b\n```", "holds the directive {csv-table}"),
        ("{download}`a <../b>`", "holds the role {download}"),
        ("![a](../b.png)", "shows the image ../b.png"),
        ("![a](c/../../b.png)", "shows the image c/../../b.png"),
        ("![a](%2e%2e/b.png)", "shows the image %2e%2e/b.png"),
        ("![a](/b.png)", "shows the image /b.png"),
        ("![a](//b.example/c.png)", "shows the image //b.example/c.png"),
        ("![a](https://b.example/c.png)", "shows the image https://b.example/c.png"),
        ("![a](file:///b.png)", "holds a link or an image with file:"),
        ("[a](javascript:b)", "holds a link or an image with javascript:"),
        ("[a](path:b)", "links to path:b"),
        ("[a](../../b)", "links to ../../b"),
        ("*" * 3000 + "a" + "*" * 3000, "nests more than 40 levels of markup"),
        (f"![a]({'b' * 300}.png)", f"shows the image {'b' * 300}.png"),
        ("$$x_1_2$$", "holds a formula that cannot be rendered, x_1_2 (double subscripts)"),
        ("| a |\n| --- |\n| $x^$ |", "holds a formula that cannot be rendered, x^ (missing super script or subscript)"),
        ("\\begin{align}x_1_2\\end{align}", ("holds a formula that cannot be rendered, \\begin{align}x_1_2\\end{align} "
         "(double subscripts)")),
    ],
)  # fmt: skip
def test_markdown_that_a_page_does_not_show_is_named(source, what):
    assert wrong(source) == [what]


@pytest.mark.parametrize(
    "source",
    [
        "```\n{include} a\n```",
        "```python\nx = 1\n```",
        "`{download}` and `$x_1_2$` and \\$5",
        "![a](b.png) ![c](d/e.png) ![f](data:image/png;base64,iVBORw0KGgo=)",
        "[a](02_pca.ipynb) [b](#c) <https://example.org> [d](https://example.org)",
        "$x$ and\n\n$$y$$",
    ],
)
def test_markdown_that_a_page_shows_is_not_named(source):
    assert wrong(source) == []


@pytest.mark.parametrize(
    ("sources", "heading"),
    [
        (["text", "# A *b*"], "A *b*"),
        (["## Lower", "# First"], "First"),
        (["## Lower"], "Lower"),
        (["Title\n==="], "Title"),
        (["```\n# comment\n```", "> # quoted"], ""),
    ],
)
def test_the_heading_of_a_notebook(sources, heading):
    cells = [nbformat.v4.new_markdown_cell(source) for source in sources]
    assert markup.heading(nbformat.v4.new_notebook(cells=cells)) == heading


def test_an_image_lies_in_the_notebooks_folder_and_is_one(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (home / "b.png").write_text("text")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (home / "d.png").symlink_to(tmp_path / "c.png")
    assert markup.wrong_with_image(home / "a.png", home) is None
    assert (
        markup.wrong_with_image(home / "b.png", home) == "images are PNG, JPEG, GIF, or SVG that only draws"
    )
    (home / "f.html").write_bytes(b"GIF89a<script>alert(1)</script>")
    assert markup.wrong_with_image(home / "f.html", home).startswith("images are")
    for name in ("d.png", "e.png", "../c.png", "a.png/x", "x" * 300):
        assert markup.wrong_with_image(home / name, home).startswith(
            ("there is no such file", "it cannot be read")
        )


@pytest.mark.parametrize(
    "shown",
    [
        '<img alt="the curve $y=x$ in blue" src="data:image/png;base64,iVBORw0KGgo=">',
        '<a href="#a" title="cost $5">x</a> and $6',
        "<p>costs $5</p><p>and $6</p>",
        "<pre>echo $HOME/$USER</pre>",
        "<!-- $x$ -->",
    ],
)
def test_dollars_outside_the_texts_of_html_are_no_formulas(shown):
    assert markup.clean(markup.html_with_formulas(shown)) == markup.clean(shown)


def test_formulas_in_the_texts_of_html_are_mathml():
    shown = markup.html_with_formulas("<td>with $a < b$ &amp; $c$</td>")
    assert shown.count("<math") == 2
    assert "&amp;" in shown
