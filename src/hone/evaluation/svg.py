"""A figure of matplotlib as inline SVG of the report's page.

matplotlib writes a document of its own: colours are fixed, sizes are in points, ids are numbered from 1 in every
figure, and one of its style rules would hold for the whole page. What comes out of here has the page's colours (CSS
variables, so that dark and light both work), the page's font, a ``viewBox`` and no size, and no ids at all, so that
any number of charts can stand in one page.

Source: SVG 2, 5.5 (``use``), 8.6 (``viewBox``); WAI-ARIA Graphics Module (``role="img"``).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from hone.evaluation.printable import printable

__all__ = ["COLOURS", "TextRuns", "as_inline_svg"]

# Words of one line of text, each with the CSS class it takes. "" takes none, and is at most one, at the end.
TextRuns = Sequence[tuple[str, str]]

# What matplotlib draws with, and the variable of the page that takes its place. Nearly black, and each another: a
# colour that is not of this list, such as matplotlib's black, is a mistake of ours.
COLOURS: Mapping[str, str] = {
    "ink": "#000001",
    "line": "#000002",
    "card": "#000003",
    "base": "#000004",
    "tuned": "#000005",
    "good": "#000006",
    "bad": "#000007",
    "open": "#000008",
}

_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_COLOUR = re.compile("#[0-9a-f]{3,8}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_SPACE_AROUND_LETTERS = re.compile(r"\s*([A-Za-z])\s*")
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBERED = re.compile(r"[\w.]+_\d+")  # the names that matplotlib gives to groups by itself


def as_inline_svg(document: str, texts: Sequence[TextRuns], *, title: str, description: str, css_class: str) -> Markup:
    """Turn what matplotlib wrote into an element of the page.

    Args:
        document: the SVG. A text ``k3`` stands for ``texts[3]``, and the ``gid`` of an artist becomes its CSS class.
        texts: what is written, which may come from users: it is escaped here and never passes through matplotlib.
        title: of the chart; browsers show it beside the pointer.
        description: the figures, read by screen readers after the title.
        css_class: of the element.
    """
    drawn = ElementTree.fromstring(document)
    shapes = {one.get("id", ""): one for defs in drawn.iter(f"{_SVG}defs") for one in defs}
    label = printable(f"{title}: {description}")
    page = ElementTree.Element(
        "svg", {"class": css_class, "role": "img", "aria-label": label, "viewBox": drawn.get("viewBox", "")}
    )
    ElementTree.SubElement(page, "title").text = printable(title)
    page.extend(list(_elements(drawn, "", shapes, texts)))
    return Markup(ElementTree.tostring(page, encoding="unicode"))


def _elements(
    parent: ElementTree.Element, css_class: str, shapes: Mapping[str, ElementTree.Element], texts: Sequence[TextRuns]
) -> Iterator[ElementTree.Element]:
    """What of the groups below is drawn, without the groups."""
    for element in parent:
        kind = element.tag.removeprefix(_SVG)
        if kind == "g":
            name = element.get("id", "")
            given = css_class if not name or _NUMBERED.fullmatch(name) else name
            yield from _elements(element, given, shapes, texts)
        elif kind == "path":
            path = {"class": css_class, "d": _path(element.get("d", "")), "style": _style(element.get("style", ""))}
            yield ElementTree.Element("path", {key: value for key, value in path.items() if value})
        elif kind == "use":
            yield _marker(element, css_class, shapes[element.get(_LINK, "").removeprefix("#")])
        elif kind == "text":
            yield _text(element, css_class, texts)
        elif kind not in ("defs", "metadata"):
            raise AssertionError(f"matplotlib drew a <{kind}>, which the report does not know")


def _marker(use: ElementTree.Element, css_class: str, shape: ElementTree.Element) -> ElementTree.Element:
    """The shape itself in place of a reference to it, as a reference needs an id."""
    x, y = _short(use.get("x", "0")), _short(use.get("y", "0"))
    style = _style(use.get("style", "") or shape.get("style", ""))
    path = shape.get("d", "")
    if css_class.split(" ")[0] == "dot":  # matplotlib writes a circle as eight Bézier curves, from its lowest point
        radius = _NUMBER.findall(path)[1]
        dot = {"class": css_class, "cx": x, "cy": y, "r": _short(radius), "style": style}
        return ElementTree.Element("circle", dot)
    moved = {"class": css_class, "transform": f"translate({x} {y})", "d": _path(path), "style": style}
    return ElementTree.Element("path", {key: value for key, value in moved.items() if value})


def _text(element: ElementTree.Element, css_class: str, texts: Sequence[TextRuns]) -> ElementTree.Element:
    """A line of text in the page's font; its colour and its size follow from its class."""
    written = element.text or ""
    anchor = re.search("text-anchor: *(middle|end)", element.get("style", ""))
    place = {"class": css_class, "x": _short(element.get("x", "0")), "y": _short(element.get("y", "0"))}
    text = ElementTree.Element("text", {key: value for key, value in place.items() if value})
    if anchor is not None:
        text.set("text-anchor", anchor[1])
    if re.fullmatch(r"k\d+", written) is None:
        text.text = written
        return text
    text.text = ""
    for run_class, words in texts[int(written[1:])]:
        if run_class:
            ElementTree.SubElement(text, "tspan", {"class": run_class}).text = printable(words)
        elif len(text):
            text[-1].tail = printable(words)
        else:
            text.text += printable(words)
    return text


def _style(style: str) -> str:
    """The style with the page's colours; one that the page does not have is a ``KeyError``."""
    kept = [one.strip() for one in style.split(";") if one.strip() not in ("", "stroke-dashoffset: 0")]
    return "; ".join(_COLOUR.sub(lambda found: _VARIABLES[found[0]], one) for one in kept)


def _path(path: str) -> str:
    return _SPACE_AROUND_LETTERS.sub(r"\1", _NUMBER.sub(lambda found: _short(found[0]), path)).strip()


def _short(number: str) -> str:
    """A length in pixels to a tenth, which is less than a screen shows."""
    return f"{round(float(number), 1) + 0.0:g}"
