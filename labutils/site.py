"""The course as static pages: contents, search, mathematics and figures, all readable from disk without a network.

Sphinx and MyST-NB make the pages. What is added here: mathematics becomes MathML, which browsers draw without a script;
figures carry the alternative text that `labutils.lesson.show` stored with them; solutions are folded; and every link
between the pages is checked.
"""

import html
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from docutils import nodes
from latex2mathml.converter import convert
from myst_nb.core.render import NbElementRenderer
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from labutils import course, lesson, vocabulary

_STYLE = Path(__file__).with_name("site.css")
_OTHER_PAGES = {"index", "notation", "results", "search", "terms"}
_SETTINGS = {
    "extensions": ["myst_nb", "labutils.site"],
    "html_theme": "furo",
    "html_theme_options": {"navigation_with_keys": True},
    "html_static_path": [str(_STYLE)],
    "html_css_files": [_STYLE.name],
    "html_math_renderer": "mathml",
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_show_search_summary": False,  # it would be fetched, which browsers refuse for files
    "html_use_index": False,
    "myst_enable_extensions": ["amsmath", "dollarmath"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_render_plugin": "labutils",
}


class FigureRenderer(NbElementRenderer):
    """MyST-NB's elements, where an image takes its alternative text from the output's metadata."""

    def render_image(self, data):
        images = super().render_image(data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if alt:
            for image in images:
                image["alt"] = alt
        return images


def setup(app):
    """Sphinx extension: mathematics as MathML."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline_math(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_math(translator, node):
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def build(paths, output):
    """Write the pages of notebooks into a folder.

    Parameters
    ----------
    paths : list of path-like
        The notebooks, in the order of the pages. What they store is shown; nothing is executed.
    output : path-like
        Folder of the pages. Pages that are there are replaced.

    Returns
    -------
    list of str
        What is wrong with the pages, a line each: links that lead nowhere, tables of symbols or terms that cannot be
        collected, and what Sphinx warns of.

    Raises
    ------
    course.UsageError
        If two notebooks have the same name, one has that of another page, or the folder holds something other than
        pages.
    course.RunError
        If the pages cannot be written.
    """
    paths, output = [Path(path) for path in paths], Path(output)
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise course.UsageError(f"two notebooks are named {twice[0]}; each page needs a name of its own")
    taken = sorted(_OTHER_PAGES.intersection(stems))
    if taken:
        raise course.UsageError(f"a page of the site is named {taken[0]}; rename the notebook")
    if output.exists() and not (output / "index.html").exists() and any(output.iterdir()):
        raise course.UsageError(
            f"{output} holds something other than pages; name another folder with --output"
        )
    course.make_writable(output.parent)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        source, pages = Path(folder) / "source", Path(folder) / "pages"
        source.mkdir()
        problems = _write_sources(paths, source)
        problems += _run_sphinx(source, pages, Path(folder) / "doctrees")
        for leftover in (".buildinfo", "objects.inv"):
            (pages / leftover).unlink(missing_ok=True)
        if output.exists():
            os.replace(output, Path(folder) / "before")
        os.replace(pages, output)
    return problems + broken_links(output)


def broken_links(folder):
    """Links and images of HTML pages that lead to no file, or to no place in a page, of the folder.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    list of str
        A line each; empty if all lead somewhere. Addresses with a host are not tried.
    """
    folder = Path(folder).resolve()
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in folder.rglob("*.html")
    }
    places = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        addresses = [
            tag.get("href") or tag.get("src") for tag in page.find_all(["a", "link", "img", "script"])
        ]
        for address in filter(None, addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            name = unquote(parts.fragment)
            if not target.is_file() or (name and target in places and name not in places[target]):
                broken.append(f"{path.relative_to(folder)}: the link to {address} leads nowhere")
    return broken


def _write_sources(paths, source):
    """Write what Sphinx reads: prepared notebooks, and pages around them; returns problems, a line each."""
    notebooks, problems = {path.stem: course.read(path) for path in paths}, []
    pages = {}
    for table in vocabulary.HEADERS:
        found, unreadable = vocabulary.collect(notebooks.items(), table)
        pages[table.lower()] = vocabulary.page(found, table) if found else None
        problems += [f"{stem}: {wrong}" for stem, wrong in unreadable]
    pages["results"] = _results_page(notebooks)
    elsewhere = {path.stem for path in course.notebooks()} - set(notebooks)
    for stem, node in notebooks.items():
        nbformat.write(_prepared(node, elsewhere), source / f"{stem}.ipynb")
    entries = [f"{stem.split('_')[0]} {_title(stem, node)} <{stem}>" for stem, node in notebooks.items()]
    for name, text in pages.items():
        if text:
            (source / f"{name}.md").write_text(text, encoding="utf-8")
            entries.append(name)
    contents = "\n".join(["```{toctree}", ":hidden:", "", *entries, "```"])
    (source / "index.md").write_text(f"{_front_page(notebooks, source)}\n\n{contents}\n", encoding="utf-8")
    return problems


def _prepared(node, elsewhere):
    """A notebook for MyST-NB: solutions folded, records taken out, mathematics in tables as MathML.

    Links to lessons that are `elsewhere`, not among the pages, become plain text.
    """
    links = re.compile(rf"\[([^\]]+)\]\((?:{'|'.join(sorted(elsewhere)) or '(?!)'})\.ipynb[^)]*\)")
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = links.sub(r"\1", cell.source)
    for cell in course.code_cells(node):
        cell.outputs = [o for o in cell.outputs if lesson.RECORD_TYPE not in o.get("data", {})]
        for shown in (output.data for output in cell.outputs if "text/html" in output.get("data", {})):
            shown["text/html"] = re.sub(
                r"\$([^$\n]+)\$", lambda m: convert(html.unescape(m[1])), shown["text/html"]
            )
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["hide-cell"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
    return node


def _title(stem, node):
    return course.title(node) or stem


def _front_page(notebooks, source):
    """The opening of the README, with a table row for each page."""
    opening, _, table = (
        (course.ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0].partition("\n| ")
    )
    for figure in re.findall(r"\]\((figures/[^)]+)\)", opening):
        (source / figure).parent.mkdir(exist_ok=True)
        shutil.copy(course.ROOT / figure, source / figure)
    described = dict(re.findall(r"\[(\w+)\]\([^)]*\) \| ([^|]*) \|", table))
    rows = ["| notebook | what you do | minutes to read | minutes to run |", "| --- | --- | ---: | ---: |"]
    for stem, node in notebooks.items():
        to_read, to_run = course.minutes(node)
        what = described.get(stem, "")
        rows.append(f"| [{_title(stem, node)}]({stem}.ipynb) | {what} | {to_read or ''} | {to_run or ''} |")
    return opening.strip() + "\n\n" + "\n".join(rows)


def _results_page(notebooks):
    """Page of all recorded results, a table for each notebook by stem; None if nothing is recorded."""
    parts = []
    for stem, records in ((stem, course.recorded(node)) for stem, node in notebooks.items()):
        if records:
            table = pd.DataFrame([record["results"] for record in records]).astype(object).map(_as_text)
            rows = table.to_html(index=False, border=0, classes="docutils", justify="left")
            parameters = ", ".join(f"{name} = {value}" for name, value in records[0]["parameters"].items())
            parts += [f"## {{doc}}`{stem}`", parameters, f'<div class="table-wrapper">\n{rows}\n</div>']
    if parts:
        return "\n\n".join(
            ["# Results", "What the notebooks recorded, below the parameters of the run.", *parts]
        )
    return None


def _as_text(value):
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def _run_sphinx(source, pages, doctrees):
    """Run Sphinx without a configuration file; returns its warnings, a line each."""
    title = (source / "index.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    settings = {**_SETTINGS, "project": title, "html_title": title}
    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            source, None, pages, doctrees, "html", settings, status=None, warning=warnings, freshenv=True
        )
        app.build()
    return [
        line.replace(f"{source}{os.sep}", "") for line in warnings.getvalue().splitlines() if line.strip()
    ]
