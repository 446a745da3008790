"""The course as static pages: contents, search, mathematics and figures, all readable from disk without a network.

Sphinx and MyST-NB make the pages. What is added here: mathematics becomes MathML, which browsers draw without a script;
figures carry the alternative text that `labutils.lesson.show` stored with them; cells are folded by their role; and every link
between the pages is checked.

Notebooks may come from anybody. No directive or role of theirs is carried out, no file is read but images that lie
beside them, what they hold is cleaned (`labutils.course.markup`), and a policy in each page lets no script run but the
theme's own.
"""

import base64
import hashlib
import html
import io
import itertools
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from docutils import nodes
from myst_nb.core.render import NbElementRenderer
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from labutils import NOTEBOOKS
from labutils.conventions import FOLDED, RECORD_TYPE, SOLUTION
from labutils.course import files, markup, notebook, vocabulary
from labutils.course.checks import Problem, place
from labutils.course.notebook import OTHER_PAGES, check_page_names, code_cells, minutes, read, recorded, tags
from labutils.errors import RunError

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
    "myst_disable_syntax": list(markup.NO_SYNTAX),
    "myst_enable_extensions": list(markup.EXTENSIONS),
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
    "nb_render_plugin": "labutils",
}


class FigureRenderer(NbElementRenderer):
    """MyST-NB's elements, where images have their alternative text, and nothing of a notebook is carried out or read."""

    def __init__(self, renderer, logger):
        super().__init__(renderer, logger)
        self._rules = dict(renderer.rules)
        renderer.rules |= {
            "render_fence": self._fence,
            "render_myst_role": self._role,
            "render_image": self._image,
            "render_link": self._link,
        }

    def render_image(self, data):
        images = super().render_image(data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if alt:
            for image in images:
                image["alt"] = str(alt)
        return images

    def _fence(self, token):
        name = markup.directive(token.info)
        if name is None or (name == "toctree" and self._is_front_page):
            self._rules["render_fence"](token)
        else:
            self._show(nodes.literal_block, f"{token.markup}{token.info}\n{token.content}{token.markup}")

    def _role(self, token):
        self._show(nodes.literal, f"{{{token.meta['name']}}}`{token.content}`")

    def _image(self, token):
        address = token.attrGet("src") or ""
        copied = markup.is_local(address) and not markup.is_outside(address)
        if address.startswith("data:") or (copied and (self._source / unquote(address)).is_file()):
            self._rules["render_image"](token)
        else:
            self._show(nodes.inline, token.content or "".join(child.content for child in token.children))

    def _link(self, token):
        address = token.attrGet("href") or ""
        if markup.is_local(address) and markup.is_outside(address):
            self.renderer.render_children(token)
        else:
            self._rules["render_link"](token)

    def _show(self, kind, text):
        self.renderer.current_node.append(kind(text, text))

    @property
    def _source(self):
        return Path(self.renderer.sphinx_env.srcdir)

    @property
    def _is_front_page(self):
        return self.renderer.sphinx_env.docname == "index"


def setup(app):
    """Sphinx extension: mathematics as MathML; what stands in a page is clean."""
    app.add_config_value("labutils_trust", False, "env", types=(bool,))
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("builder-inited", _read_no_files)
    app.connect("doctree-read", _plain_titles, priority=100)  # before the contents are collected
    app.connect("html-page-context", _clean_body)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline_math(translator, node):
    translator.body.append(markup.formula(node.astext()))
    raise nodes.SkipNode


def _block_math(translator, node):
    translator.body.append(f'<div class="math">{markup.formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _read_no_files(app):
    app.env.settings.update(file_insertion_enabled=False, raw_enabled=False)


def _plain_titles(app, doctree):
    """Take HTML out of titles, which also stand in the contents and in the links to the next page."""
    for title in doctree.findall(nodes.title):
        for raw in list(title.findall(nodes.raw)):
            raw.parent.remove(raw)


def _clean_body(app, page, template, context, doctree):
    if "body" in context and not app.config.labutils_trust:
        context["body"] = markup.clean(context["body"])


def build(paths, output, prefix="", *, trust=False):
    """Write the pages of notebooks into a folder.

    Parameters
    ----------
    paths : list of path-like
        The notebooks, in the order of the pages. What they store is shown; nothing is executed.
    output : path-like or labutils.course.files.Folder
        Folder of the pages. What an earlier call wrote there is replaced; other files stay.
    prefix : str
        Beginning of the names of the pages in the folder, such as ``pages/``.
    trust : bool
        Whether scripts and active HTML of the notebooks become part of the pages.

    Returns
    -------
    list of str
        What is wrong with the pages, a line each, with the notebook and the cell: formulas that cannot be rendered,
        what is left out of the pages, links that lead nowhere, tables of symbols or terms that cannot be collected,
        and what Sphinx warns of.

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
    folder = output if isinstance(output, files.Folder) else files.Folder(output, "site", sources=paths)
    folder.check(f"{prefix}{path.stem}.html" for path in [*paths, *map(Path, OTHER_PAGES)])
    with tempfile.TemporaryDirectory(prefix="labutils-site-") as temporary:
        source, pages = Path(temporary).resolve() / "source", Path(temporary).resolve() / "pages"
        source.mkdir()
        notebooks = {path.stem: read(path) for path in paths}
        problems = _problems(notebooks, trust)
        problems += _copy_images(paths, notebooks, source)
        numbered = {stem: _numbered(node) for stem, node in notebooks.items()}
        problems += _write_sources(notebooks, source, trust)
        problems += _run_sphinx(source, pages, Path(temporary) / "doctrees", numbered, trust)
        for leftover in (".buildinfo", "objects.inv"):
            (pages / leftover).unlink(missing_ok=True)
        (pages / ".nojekyll").touch()  # else GitHub Pages drops folders that begin with an underscore
        problems += broken_links(pages)
        if not trust:
            _add_policy(pages)
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
        found = page.find_all(["a", "link", "img", "script", "audio", "video", "source"])
        for address in filter(None, (tag.get("href") or tag.get("src") for tag in found)):
            try:
                parts = urlsplit(address)
                if parts.scheme or parts.netloc:
                    continue
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                is_there = target.is_file()
            except (OSError, ValueError):  # what can be no address, or no name of a file
                is_there = False
            name = unquote(parts.fragment) if is_there else ""
            if not is_there or (name and target in places and name not in places[target]):
                broken.append(f"{path.relative_to(folder)}: the link to {address} leads nowhere")
    return broken


def _problems(notebooks, trust):
    return [
        str(Problem(stem, place(node, cell), wrong, allowed))
        for stem, node in notebooks.items()
        for cell in node.cells
        for wrong, allowed in markup.problems(cell, trust=trust)
    ]


def _numbered(node):
    """Place of each cell of a notebook, by its number."""
    return {number: place(node, cell) for number, cell in enumerate(node.cells, 1)}


def _copy_images(paths, notebooks, source):
    """Copy the images that Markdown cells show from the notebook's own folder; returns problems, a line each."""
    problems = []
    for path, node in zip(paths, notebooks.values(), strict=True):
        home = path.resolve().parent
        for cell in node.cells:
            for address in markup.local_images(cell):
                image, copy = home / address, source / address
                wrong = markup.wrong_with_image(image, home)
                if not wrong and _is_taken(copy, source, image):
                    wrong = "another notebook shows another image of that name; rename one"
                if wrong:
                    what = f"shows the image {address}"
                    problems.append(str(Problem(path.stem, place(node, cell), what, wrong)))
                else:
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(image, copy)
    return problems


def _is_taken(copy, source, image):
    """Whether another image, or a folder of images, has the place that an image is to be copied to."""
    above = itertools.takewhile(lambda place: place != source, copy.parents)
    if any(place.is_file() for place in above):
        return True
    return copy.exists() and (not copy.is_file() or copy.read_bytes() != image.read_bytes())


def _write_sources(notebooks, source, trust):
    """Write what Sphinx reads: prepared notebooks, and pages around them; returns problems, a line each."""
    pages, problems = {}, []
    for table in vocabulary.HEADERS:
        found, unreadable = vocabulary.gather(notebooks.items(), table)
        pages[table.lower()] = vocabulary.page(found, table) if found else None
        problems += [f"{stem}: {wrong}" for stem, wrong in unreadable]
    pages["results"] = _results_page(notebooks)
    front = _front_page(notebooks, source)
    entries = [_entry(stem, node) for stem, node in notebooks.items()]
    elsewhere = {path.stem for path in notebook.notebooks()} - set(notebooks)
    for stem, node in notebooks.items():
        nbformat.write(_prepared(node, stem, elsewhere, trust), source / f"{stem}.ipynb")
    entries += [name for name, text in pages.items() if text]
    contents = "\n".join(["```{toctree}", ":hidden:", "", *entries, "```"])
    pages["index"] = f"{front}\n\n{contents}"
    for name, text in pages.items():
        if text:  # as a notebook, so that what it holds of others is treated as theirs is
            page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
            nbformat.write(page, source / f"{name}.ipynb")
    return problems


def _prepared(node, stem, elsewhere, trust):
    """A notebook for MyST-NB: what is folded in JupyterLab folded, records and active outputs taken out, mathematics in tables as MathML.

    Links to lessons that are `elsewhere`, not among the pages, become plain text. Metadata, which could set MyST's
    options, is the course's own.
    """
    links = re.compile(rf"\[([^\[\]]+)\]\((?:{'|'.join(sorted(elsewhere)) or '(?!)'})\.ipynb[^)]*\)")
    has_heading = bool(markup.heading(node))
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = links.sub(r"\1", cell.source)
            if markup.is_too_deep(cell.source):
                cell.source = f"````````\n{cell.source}\n````````"
        elif cell.cell_type == "raw":
            cell.source = ""
        role = next((role for role in FOLDED if role in tags(cell)), None)
        cell.metadata = {"tags": tags(cell)}
        if role:  # of a solution the output, "right", is folded as well
            cell.metadata["tags"] = ["hide-cell" if role == SOLUTION else "hide-input"]
            cell.metadata["mystnb"] = dict.fromkeys(("code_prompt_show", "code_prompt_hide"), FOLDED[role])
    for cell in code_cells(node):
        cell.outputs = [o for o in cell.outputs if RECORD_TYPE not in o.get("data", {})]
        for output in cell.outputs:
            if "data" in output:
                output.data = _shown(output.data, trust)
    lines = [10_000 * number for number in range(1, len(node.cells) + 1)]  # by which warnings name a cell
    if not has_heading:
        node.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {_escaped(stem)}"))
        lines.insert(0, 0)
    widgets = {"widgets": node.metadata["widgets"]} if trust and "widgets" in node.metadata else {}
    language = {"name": "python", "pygments_lexer": "ipython3"}
    node.metadata = {"language_info": language, "source_map": lines, **widgets}
    return node


def _shown(data, trust):
    """What of an output's representations a page may show."""
    shown = {}
    for kind in (*markup.OUTPUT_TYPES, *markup.ACTIVE_TYPES):
        if kind in data and (trust or markup.is_passive(kind, data[kind])):
            shown[kind] = data[kind]
    if "text/html" in shown:
        shown["text/html"] = markup.html_with_formulas(shown["text/html"])
        if not trust:  # one by one, so that what one leaves open does not reach into the next
            shown["text/html"] = markup.clean(shown["text/html"])
    return shown


def _title(stem, node):
    return markup.heading(node) or stem


def _entry(stem, node):
    """Line of the contents: the number of a lesson, its title, and its page."""
    number = stem.split("_")[0]
    title = _title(stem, node)
    title = re.sub(r"[<>]", "", title)
    return f"{number} {title} <{stem}>" if number.isdecimal() else f"{title} <{stem}>"


def _escaped(text):
    """Text as Markdown that shows it as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|$~-])", r"\\\1", text)


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
        title = re.sub(r"([\\\[\]<>|!])", r"\\\1", _title(stem, node))
        rows.append(f"| [{title}](<{stem}.ipynb>) | {what} | {to_read or ''} | {to_run or ''} |")
    return opening.strip() + "\n\n" + "\n".join(rows)


def _results_page(notebooks):
    """Page of all recorded results, a table for each notebook by stem; None if nothing is recorded."""
    parts = []
    for stem, node in notebooks.items():
        records = recorded(node)
        if records:
            table = pd.DataFrame([record["results"] for record in records]).astype(object).map(_as_text)
            rows = table.to_html(index=False, border=0, classes="docutils", justify="left")
            parameters = ", ".join(f"{name} = {value}" for name, value in records[0]["parameters"].items())
            parts += [
                f"## [{_title(stem, node)}](<{stem}.ipynb>)",
                f"<p>{_in_one_line(html.escape(parameters))}</p>",
                f'<div class="table-wrapper">{_in_one_line(rows)}</div>',
            ]
    if parts:
        return "\n\n".join(
            ["# Results", "What the notebooks recorded, below the parameters of the run.", *parts]
        )
    return None


def _as_text(value):
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def _in_one_line(text):
    """HTML without line breaks, since an empty line would end it in Markdown."""
    return " ".join(text.split())


def _run_sphinx(source, pages, doctrees, numbered, trust):
    """Run Sphinx without a configuration file; returns its warnings, a line each."""
    title = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    settings = {**_SETTINGS, "project": title, "html_title": title, "labutils_trust": trust}
    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            source, None, pages, doctrees, "html", settings, status=None, warning=warnings, freshenv=True
        )
        try:
            app.build()
        except Exception as error:
            what = f"the pages cannot be built ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            raise RunError(what.replace(f"{source}/", "")) from error
    return _warnings(warnings.getvalue(), source, numbered)


def _warnings(said, source, numbered):
    """Sphinx's warnings, a line each, with the notebook and the cell instead of a file and a line."""
    said = (
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace(f"{source}/", "").replace(f"{source.parent}/", "")
    )
    lines = []
    for line in filter(str.strip, said.splitlines()):
        found = re.match(
            r"(?:(.+?)\.ipynb(?::(\d+))?(?:\.\w+)?: )?(?:WARNING|ERROR|CRITICAL|SEVERE): (.*)", line
        )
        if found:
            stem, number, what = found.groups()
            cell = numbered.get(stem, {}).get(int(number or 0) // 10_000)
            where = ", ".join(filter(None, (stem, cell)))
            lines.append(f"{where}: {what}" if where else what)
        elif lines:  # more of the message before
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip())
    return lines


def _add_policy(pages):
    """Let browsers run no script but those of the theme's files and templates, and load nothing from elsewhere."""
    theme = BeautifulSoup((pages / "search.html").read_text(encoding="utf-8"), "html.parser")
    inline = {tag.string for tag in theme.find_all("script", src=False)}
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in sorted(inline)]
    scripts = " ".join(["'self'", *(f"'sha256-{code}'" for code in hashes)])
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "media-src 'self' data:; font-src 'self' data:; form-action 'self'; base-uri 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    for path in pages.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("<head>", f"<head>{meta}", 1), encoding="utf-8")
