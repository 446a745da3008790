"""HTML pages of executed notebooks, readable without a network: mathematics is MathML, figures lie inside."""

import html
from pathlib import Path

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from labutils import lesson

_TEMPLATE = Path(__file__).with_name("page_template")


class _Renderer(IPythonRenderer):
    """Markdown to HTML, with LaTeX turned into MathML, which every browser draws without a script."""

    def inline_math(self, body):
        return convert(body)

    def block_math(self, body):
        return convert(body, display="block")


class _PageExporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def notebook_page(node, title):
    """Page of an executed notebook.

    Parameters
    ----------
    node : nbformat.NotebookNode
    title : str

    Returns
    -------
    str
        A whole HTML document that refers to no other file.
    """
    for cell in node.cells:  # records are for the table of results; a page has no way to show them
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if lesson.RECORD_TYPE not in o.get("data", {})]
    exporter = _PageExporter(
        extra_template_basedirs=[str(_TEMPLATE.parent)],
        template_name=_TEMPLATE.name,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    page, _ = exporter.from_notebook_node(node, {"metadata": {"name": title}})
    return page


def index_page(entries, results):
    """Page that lists the notebooks and the recorded results.

    Parameters
    ----------
    entries : list of (str, str, int, int)
        Stem, title, minutes to read and minutes to run of each notebook.
    results : pandas.DataFrame
        As `labutils.course.collect` returns it.

    Returns
    -------
    str
    """
    rows = [
        f'<tr><td><a href="{stem}.html">{html.escape(stem)}</a></td>'
        f"<td>{html.escape(title)}</td><td>{to_read}</td><td>{to_run}</td></tr>"
        for stem, title, to_read, to_run in entries
    ]
    shown = results.drop(columns=["file", "versions", "cpu", "cores", "gpu"], errors="ignore")
    table = (
        shown.to_html(index=False, na_rep="", border=0, float_format="{:.4f}".format) if len(shown) else ""
    )
    index = (_TEMPLATE / "index_of_pages.html").read_text(encoding="utf-8")
    return index.replace("ROWS", "\n".join(rows)).replace("RESULTS", table)
