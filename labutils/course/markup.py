"""What a page may hold: formulas as MathML, and markup that neither runs nor loads nor reads anything.

A notebook may come from anybody. What its cells hold is cleaned by a list of what is allowed (`clean`), and what is
left out is named with its cell (`problems`), by `labutils check` and by `labutils site` alike.
"""

import html
import itertools
import re
from functools import cache
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import nh3
from bs4 import BeautifulSoup, NavigableString
from latex2mathml.converter import convert

EXTENSIONS = ("amsmath", "dollarmath")  # of MyST's Markdown
# What an output is shown from, the best first
OUTPUT_TYPES = ("text/html", "image/svg+xml", "image/png", "image/gif", "image/jpeg", "text/markdown", "text/latex",
                "text/plain")  # fmt: skip
ACTIVE_TYPES = ("application/javascript", "application/vnd.jupyter.widget-view+json")
LONGEST_FORMULA = 5000  # the converter's time grows with the square
LEFT_OUT = "it is left out of the page, unless the site is built with --trust"

_MATHML = {
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts",
    "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr",
    "munder", "munderover", "none",
}  # fmt: skip
_MATHML_ATTRIBUTES = {
    "accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth", "display", "displaystyle", "fence",
    "form", "height", "largeop", "linebreak", "linethickness", "lspace", "mathcolor", "mathsize", "mathvariant",
    "maxsize", "minsize", "movablelimits", "notation", "rowlines", "rowspacing", "rspace", "scriptlevel", "separator",
    "stretchy", "symmetric", "voffset", "width",
}  # fmt: skip
_TAGS = (nh3.ALLOWED_TAGS - {"area", "map"}) | _MATHML | {"audio", "font", "section", "tfoot", "video"}
_MORE_ATTRIBUTES = {
    "*": {"class", "dir", "id", "lang", "role", "style", "title"},
    "audio": {"controls", "loop", "muted", "src"},
    "col": {"width"},
    "details": {"open"},
    "div": {"align"},
    "font": {"color", "size"},
    "img": {"loading"},
    "ol": {"reversed", "type"},
    "p": {"align"},
    "table": {"border", "cellpadding", "cellspacing", "width"},
    "td": {"valign", "width"},
    "th": {"valign", "width"},
    "tr": {"valign"},
    "video": {"controls", "height", "loop", "muted", "src", "width"},
    **{name: _MATHML_ATTRIBUTES for name in _MATHML},
}
_ATTRIBUTES = {
    name: (nh3.ALLOWED_ATTRIBUTES.get(name, set()) | _MORE_ATTRIBUTES.get(name, set())) - {"cite", "hreflang"}
    for name in {*nh3.ALLOWED_ATTRIBUTES, *_MORE_ATTRIBUTES}
}
_STYLES = {
    "align-items", "background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left",
    "border-right", "border-top", "border-width", "color", "display", "flex", "flex-direction", "flex-wrap",
    "font-family", "font-size", "font-style", "font-weight", "gap", "height", "justify-content", "line-height", "margin",
    "margin-bottom", "margin-left", "margin-right", "margin-top", "max-height", "max-width", "min-height", "min-width",
    "overflow", "overflow-x", "overflow-y", "padding", "padding-bottom", "padding-left", "padding-right", "padding-top",
    "text-align", "text-decoration", "vertical-align", "white-space", "width",
}  # fmt: skip
_SCHEMES = {"ftp", "http", "https", "mailto"}
_CHILDREN = {
    "mfrac": 2,
    "mover": 2,
    "mroot": 2,
    "msub": 2,
    "msubsup": 3,
    "msup": 2,
    "munder": 2,
    "munderover": 3,
}
# Lines that begin with % or +++ are text in Jupyter, and comments in MyST
NO_SYNTAX = ("myst_line_comment", "myst_block_break")
DEEPEST = 40  # levels of emphasis, lists, quotations in each other
_HTML_FORMULA = re.compile(r"\$([^$\n]+)\$")
_UNREAD_LINK = re.compile(r"\]\(\s*<?\s*(file|javascript|vbscript|data):", re.IGNORECASE)


class FormulaError(ValueError):
    """A formula cannot be rendered; the message says why."""


@cache
def mathml(tex, display="inline"):
    """A formula as MathML.

    Parameters
    ----------
    tex : str
        In LaTeX, without dollars.
    display : {"inline", "block"}

    Returns
    -------
    str

    Raises
    ------
    FormulaError
        If the formula cannot be rendered, is not complete or holds an unknown command.
    """
    if len(tex) > LONGEST_FORMULA:
        raise FormulaError(f"it has {len(tex)} characters; {LONGEST_FORMULA} are allowed")
    # The one operator that the converter lacks
    with_arg = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}", tex)
    try:
        shown = convert(with_arg, display=display)
    except Exception as error:  # noqa: BLE001 - its own errors are of many kinds, and some are slips
        why = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()
        raise FormulaError(why) from None
    parsed = BeautifulSoup(shown, "html.parser")
    slip = re.search(r"(?<!\\)\\\\(left|right|frac|sqrt|begin|end)\b", tex)
    if slip:
        raise FormulaError(f"{slip[0]} is a line break and the word {slip[1]}")
    if any(element.name not in _MATHML for element in parsed.find_all(True)):
        raise FormulaError("it holds HTML")
    if any(element.get_text() == "&" for element in parsed.find_all("mi")):
        raise FormulaError("it aligns by &, which pages do not; use array, or a formula a line")
    operators = parsed.find_all("mo")
    if any(element.find(True) or "\\" in element.get_text() for element in operators):
        raise FormulaError("an operator that is built of others is not known")
    if any(not element.get_text() and not element.get("fence") for element in operators):
        raise FormulaError("a part is missing")
    unknown = parsed.find("mi", string=re.compile(r"^\\"))
    if unknown:
        raise FormulaError(f"{unknown.get_text()} is not known")
    for name, needed in _CHILDREN.items():
        if any(len(element.find_all(True, recursive=False)) != needed for element in parsed.find_all(name)):
            raise FormulaError("a part is missing")
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", tex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            break
    if depth:
        raise FormulaError("the braces do not match")
    return clean(shown)


def formula(tex, display="inline"):
    """A formula as MathML or, where it cannot be rendered, its TeX text."""
    try:
        return mathml(tex, display)
    except FormulaError:
        return f'<code class="tex">{html.escape(tex)}</code>'


def html_with_formulas(shown):
    """HTML in which what stands between dollars is MathML, in its texts alone."""
    if "$" not in shown:
        return shown
    parsed = BeautifulSoup(shown, "html.parser")
    for text in _texts(parsed):
        if _HTML_FORMULA.search(text):
            parts, last = [], 0
            for found in _HTML_FORMULA.finditer(text):
                parts += [html.escape(text[last : found.start()]), formula(found[1])]
                last = found.end()
            parts.append(html.escape(text[last:]))
            text.replace_with(BeautifulSoup("".join(parts), "html.parser"))
    return str(parsed)


def _texts(parsed):
    """Texts of HTML in which formulas may stand: not those of code, and no comments."""
    for text in parsed.find_all(string=True):
        if type(text) is NavigableString and not text.find_parent(["pre", "code", "script", "style"]):
            yield text


def clean(shown):
    """HTML without anything that runs, loads from elsewhere or leads to a file of the machine.

    Parameters
    ----------
    shown : str
        A fragment. It comes back with all elements closed.

    Returns
    -------
    str
    """
    return nh3.clean(
        shown,
        tags=_TAGS,
        clean_content_tags={"script", "style", "title"},
        attributes=_ATTRIBUTES,
        generic_attribute_prefixes={"aria-"},
        attribute_filter=lambda tag, name, value: value if _is_allowed_value(tag, name, value) else None,
        filter_style_properties=_STYLES,
        url_schemes={*_SCHEMES, "data"},
        link_rel=None,
    )


def is_passive(kind, content):
    """Whether what an output holds of one type only draws; of text, which is cleaned or shown as it stands, always."""
    if kind == "image/svg+xml":
        return is_passive_image(content)
    if kind == "image/gif":
        return (
            bool(re.fullmatch(r"\s*R0lGOD[\w+/\s]*=*\s*", content)) and len("".join(content.split())) % 4 == 0
        )
    return kind not in ACTIVE_TYPES


def is_passive_image(svg):
    """Whether an SVG only draws: no script, no event handler, nothing that is loaded, no foreign content."""
    if re.search(r"<!ENTITY|<!DOCTYPE[^>]*\[|<\?xml-stylesheet", svg, re.IGNORECASE):
        return False
    try:
        elements = list(ElementTree.fromstring(svg).iter())
    except (ElementTree.ParseError, ValueError):
        return False
    for element in elements:
        space, _, name = str(element.tag).lower().removeprefix("{").rpartition("}")
        if "xhtml" in space or (not space and name != "svg"):
            return False
        if name in ("script", "foreignobject", "set", "handler", "iframe") or name.startswith("animate"):
            return False
        for attribute, value in element.attrib.items():
            attribute = attribute.rpartition("}")[2].lower()
            inside = value.strip().startswith(("#", "data:image/"))
            if attribute.startswith("on") or (attribute in ("href", "src") and not inside) or _loads(value):
                return False
        if name == "style" and _loads("".join(element.itertext())):
            return False
    return True


def local_images(cell):
    """Paths of the images that a Markdown cell shows from its notebook's folder; those that lead out of it are refused."""
    tokens = markdown().parse(cell.source) if cell.cell_type == "markdown" else []
    for token in (inner for outer in tokens for inner in outer.children or ()):
        address = token.attrGet("src") or "" if token.type == "image" else ""
        if address and is_local(address) and not is_outside(address):
            yield unquote(address)


def wrong_with_image(path, home):
    """What is wrong with an image file in the folder `home`, which links may leave; None if nothing."""
    try:
        if not path.resolve().is_relative_to(home.resolve()) or not path.is_file():
            return "there is no such file in the notebook's folder"
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        return f"it cannot be read ({getattr(error, 'strerror', None) or error})"
    kind = path.suffix.lower()
    if kind in (".png", ".jpg", ".jpeg", ".gif") and content.startswith(
        (b"\x89PNG\r\n", b"\xff\xd8", b"GIF8")
    ):
        return None
    if kind == ".svg" and is_passive_image(content.decode(errors="replace")):
        return None
    return "images are PNG, JPEG, GIF, or SVG that only draws"


def problems(cell, *, trust=False):
    """What of a cell a page does not show as it stands.

    Parameters
    ----------
    cell : nbformat.NotebookNode
    trust : bool
        Whether scripts and active HTML are let through.

    Yields
    ------
    wrong, allowed : str
    """
    if cell.cell_type == "markdown":
        yield from _problems_of_markdown(cell.source, trust)
    elif cell.cell_type == "raw" and cell.metadata.get("format"):
        yield "is a raw cell", "pages leave such cells out"
    for output in cell.get("outputs", []):
        shown = output.get("data", {})
        best = next((kind for kind in OUTPUT_TYPES if kind in shown), None)
        for kind in (*ACTIVE_TYPES, *OUTPUT_TYPES):
            if kind in shown and not trust and not is_passive(kind, shown[kind]):
                active = "" if kind in ACTIVE_TYPES else " that is broken or does more than draw"
                yield f"stores {kind}{active}", LEFT_OUT
        if best == "text/html" and not trust:
            yield from _active(shown[best])
        if best == "text/html":
            for text in _texts(BeautifulSoup(shown[best], "html.parser")) if "$" in shown[best] else ():
                for found in _HTML_FORMULA.finditer(text):
                    yield from _formula_problems(found[1])
        elif best == "text/latex":
            from myst_nb.core.render import strip_latex_delimiters

            yield from _formula_problems(strip_latex_delimiters(shown[best]))
        elif best == "text/markdown":
            yield from _problems_of_markdown(shown[best], trust)


def heading(node):
    """Text of a notebook's first heading of the first level, or of any level if there is none; empty if none at all."""
    found = []
    for cell in node.cells:
        if cell.cell_type == "markdown":
            tokens = markdown().parse(cell.source)
            found += [
                (token.tag, " ".join(after.content.split()))
                for token, after in itertools.pairwise(tokens)
                if token.type == "heading_open" and token.level == 0 and after.content.strip()
            ]
    return next((text for tag, text in found if tag == "h1"), found[0][1] if found else "")


@cache
def markdown():
    """Parser of Markdown cells, the same as that of the pages."""
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    parser = create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS)), RendererHTML)
    parser.disable(["front_matter", *NO_SYNTAX])
    return parser


def is_too_deep(source):
    """Whether Markdown nests so deep that no page can be made of it."""
    tokens = markdown().parse(source)
    return any(t.level > DEEPEST for outer in tokens for t in (outer, *(outer.children or [])))


def directive(info):
    """Name of the directive that a fence with this first line is in MyST's Markdown; None for a block of code."""
    name = next(iter(info.split()), "")
    return name[1:-1] if name.startswith("{") and name.endswith("}") else None


def is_local(address):
    """Whether an address leads to a file by its path."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return True
    return parts.scheme in ("", "file", "path", "project") and not address.startswith("#")


def is_outside(address):
    """Whether a local address leads out of the notebook's folder."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return True
    path = unquote(parts.path).replace("\\", "/")
    depth, lowest = 0, 0
    for part in path.split("/"):
        depth += {"..": -1, "": 0, ".": 0}.get(part, 1)
        lowest = min(lowest, depth)
    odd = any(not c.isprintable() for c in path) or any(len(part.encode()) > 255 for part in path.split("/"))
    return odd or parts.scheme in ("file", "path") or bool(parts.netloc) or path.startswith("/") or lowest < 0


def _problems_of_markdown(source, trust):
    tokens = markdown().parse(source)
    if is_too_deep(source):
        yield f"nests more than {DEEPEST} levels of markup", "the page shows its text"
        return
    for token in (t for outer in tokens for t in (outer, *(outer.children or []))):
        if token.type == "fence" and directive(token.info) is not None:
            yield (
                f"holds the directive {{{directive(token.info)}}}",
                "pages show its text, and carry no directive out",
            )
        elif token.type == "myst_role":
            yield f"holds the role {{{token.meta['name']}}}", "pages show its text, and carry no role out"
        elif token.type.startswith(("math_", "amsmath")):
            yield from _formula_problems(token.content)
        elif token.type in ("html_block", "html_inline") and not trust:
            yield from _active(token.content)
        elif token.type == "image":
            address = token.attrGet("src") or ""
            if is_local(address) and is_outside(address):
                yield f"shows the image {address}", "images lie in the notebook's folder, or below it"
            elif not is_local(address) and not address.startswith("data:"):
                yield (
                    f"shows the image {address}",
                    "pages load nothing from elsewhere; put it into the notebook's folder",
                )
        elif token.type == "link_open":
            address = token.attrGet("href") or ""
            if is_local(address) and is_outside(address):
                yield f"links to {address}", "links lead to other notebooks, or to the web"
        elif token.type == "text" and _UNREAD_LINK.search(token.content):
            scheme = _UNREAD_LINK.search(token.content)[1]
            yield f"holds a link or an image with {scheme}:", "links lead to other notebooks, or to the web"


def _formula_problems(tex):
    try:
        mathml(tex)
    except FormulaError as error:
        shortened = " ".join(tex.split())
        shortened = shortened if len(shortened) <= 60 else f"{shortened[:57]}..."
        yield f"holds a formula that cannot be rendered, {shortened} ({error})", "the page shows its TeX text"


def _active(shown):
    """What of HTML `clean` leaves out, but for pandas's style of its tables, which the pages have themselves."""
    if "<" not in shown:
        return
    found = []
    if shown.rfind("<!--") > shown.rfind("-->"):
        found.append("a comment that does not end")
    for tag in BeautifulSoup(shown, "html.parser").find_all(True):
        if tag.name not in _TAGS and not (tag.name == "style" and tag.has_attr("scoped")):
            found.append(f"<{tag.name}>")
        allowed = _ATTRIBUTES.get(tag.name, set()) | _ATTRIBUTES["*"]
        for name, value in tag.attrs.items():
            value = " ".join(value) if isinstance(value, list) else value
            if name.startswith("on") or name in (
                "srcdoc",
                "srcset",
                "formaction",
                "background",
                "xlink:href",
            ):
                found.append(name)
            elif name in ("href", "src") and not (
                name in allowed and _is_allowed_value(tag.name, name, value)
            ):
                found.append(f"{name}={value if len(value) <= 40 else value[:37] + '...'}")
            elif name == "style" and _loads(value):
                found.append("a style that loads")
    for what in dict.fromkeys(found):
        yield f"holds {what}", LEFT_OUT


def _is_allowed_value(tag, name, value):
    if name == "href":
        return _scheme(value) in (None, *_SCHEMES) and not _bare(value).startswith(("/", "\\"))
    if name == "src":
        passive = re.match(r"\s*data:(image|audio|video)/", value, re.IGNORECASE)
        return bool(passive) or (_scheme(value) is None and not _bare(value).startswith(("/", "\\")))
    return True


def _bare(address):
    return re.sub(r"[\x00-\x20]", "", address)


def _scheme(address):
    """What stands before the colon of an address as a browser reads it, which drops breaks, tabs and the like."""
    before, colon, _ = _bare(address).partition(":")
    return before.lower() if colon and not re.search(r"[/?#]", before) else None


def _loads(style):
    return bool(re.search(r"(url|image-set|image|src)\s*\(\s*['\"]?(?!#|data:image/)|@import|expression\s*\(|\\", style,
                          re.IGNORECASE))  # fmt: skip
