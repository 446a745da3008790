"""The course as static pages: contents, search, mathematics and figures, all readable from disk without a network.

Sphinx and MyST-NB make the pages. What is added here: mathematics becomes MathML, which browsers draw without a script;
figures carry the alternative text that `labutils.lesson.show` stored with them; solutions are folded; and every link
between the pages is checked.
"""

import html
import io
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

from labutils import NOTEBOOKS
from labutils.conventions import RECORD_TYPE, SOLUTION
from labutils.course import files, notebook, vocabulary
from labutils.course.notebook import OTHER_PAGES, check_page_names, code_cells, minutes, read, recorded, tags

_STYLE = Path(__file__).with_name("site.css")
ROOT = NOTEBOOKS.parent
_SETTINGS = {
    "extensions": ["myst_nb", "labutils.course.site"],
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


def build(paths, output, prefix=""):
    """Write the pages of notebooks into a folder.

    Parameters
    ----------
    paths : list of path-like
        The notebooks, in the order of the pages. What they store is shown; nothing is executed.
    output : path-like
        Folder of the pages. What an earlier call wrote there is replaced; other files stay.
    prefix : str
        Beginning of the names of the pages in the folder, such as ``pages/``.

    Returns
    -------
    list of str
        What is wrong with the pages, a line each: links that lead nowhere, tables of symbols or terms that cannot be
        collected, and what Sphinx warns of.

    Raises
    ------
    UsageError
        If two notebooks have the same name, one has that of another page, or a page would replace a file that an earlier
        call did not write.
    RunError
        If the pages cannot be written.
    """
    paths = [Path(path) for path in paths]
    check_page_names(paths)
    folder = files.Folder(output, sources=paths)
    folder.check(f"{prefix}{path.stem}.html" for path in [*paths, *map(Path, OTHER_PAGES)])
    with tempfile.TemporaryDirectory(prefix="labutils-site-") as temporary:
        source, pages = Path(temporary).resolve() / "source", Path(temporary).resolve() / "pages"
        source.mkdir()
        problems = _write_sources(paths, source)
        problems += _run_sphinx(source, pages, Path(temporary) / "doctrees")
        for leftover in (".buildinfo", "objects.inv"):
            (pages / leftover).unlink(missing_ok=True)
        (pages / ".nojekyll").touch()  # else GitHub Pages drops folders that begin with an underscore
        problems += broken_links(pages)
        built = {p.relative_to(pages).as_posix(): p for p in sorted(pages.rglob("*")) if p.is_file()}
        folder.replace_all(built, prefix)
    return problems


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
    notebooks, problems = {path.stem: read(path) for path in paths}, []
    pages = {}
    for table in vocabulary.HEADERS:
        found, unreadable = vocabulary.gather(notebooks.items(), table)
        pages[table.lower()] = vocabulary.page(found, table) if found else None
        problems += [f"{stem}: {wrong}" for stem, wrong in unreadable]
    pages["results"] = _results_page(notebooks)
    elsewhere = {path.stem for path in notebook.notebooks()} - set(notebooks)
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
    for cell in code_cells(node):
        cell.outputs = [o for o in cell.outputs if RECORD_TYPE not in o.get("data", {})]
        for shown in (output.data for output in cell.outputs if "text/html" in output.get("data", {})):
            shown["text/html"] = re.sub(
                r"\$([^$\n]+)\$", lambda m: convert(html.unescape(m[1])), shown["text/html"]
            )
        if SOLUTION in tags(cell):
            cell.metadata["tags"] = ["hide-cell"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
    return node


def _title(stem, node):
    return notebook.title(node) or stem


def _front_page(notebooks, source):
    """The opening of the README, with a table row for each page."""
    opening, _, table = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0].partition("\n| ")
    )
    for figure in re.findall(r"\]\((figures/[^)]+)\)", opening):
        (source / figure).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / figure, source / figure)
    described = dict(re.findall(r"\[(\w+)\]\([^)]*\) \| ([^|]*) \|", table))
    rows = ["| notebook | what you do | minutes to read | minutes to run |", "| --- | --- | ---: | ---: |"]
    for stem, node in notebooks.items():
        to_read, to_run = minutes(node)
        what = described.get(stem, "")
        rows.append(f"| [{_title(stem, node)}]({stem}.ipynb) | {what} | {to_read or ''} | {to_run or ''} |")
    return opening.strip() + "\n\n" + "\n".join(rows)


def _results_page(notebooks):
    """Page of all recorded results, a table for each notebook by stem; None if nothing is recorded."""
    parts = []
    for stem, records in ((stem, recorded(node)) for stem, node in notebooks.items()):
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
    said = re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue()).replace(f"{source}/", "")
    return [line for line in said.splitlines() if line.strip()]
