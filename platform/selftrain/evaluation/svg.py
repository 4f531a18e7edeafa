"""Makes an SVG of matplotlib a part of a page: its colours become the page's variables, so that it follows dark mode.

Only drawing elements stay, without scripts, event handlers or addresses: class names and variants are strangers' words.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree import ElementTree

from selftrain.evaluation.plot_style import BOUND, COLORS, GRID, INK, QUIET

_ELEMENTS = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "image", "text", "tspan"}
_SHAPES = {"d", "x", "y", "width", "height", "transform", "viewBox", "id", "style", "clip-path", "href", "preserveAspectRatio"}
_VARIABLES = {color.lower(): f"var(--series-{number})" for number, color in enumerate(COLORS[:-1], 1)} | {
    INK.lower(): "var(--ink)",
    "#000000": "var(--ink)",
    "#ffffff": "var(--card)",
    QUIET.lower(): "var(--quiet)",
    GRID.lower(): "var(--line)",
    BOUND.lower(): "var(--bound)",
}


class Inline(NamedTuple):
    """An SVG that a page can hold."""

    markup: str
    width: int  # in pixels, as it was drawn


def inline(content: bytes, name: str, label: str) -> Inline:
    """The markup of an SVG for a page.

    Args:
        content: the SVG that matplotlib wrote.
        name: put before all ids, which must differ between the plots of a page.
        label: the text for readers who do not see it.
    """
    root = ElementTree.fromstring(content)
    prefix = re.sub(r"\W", "-", name)
    width = float(root.get("width", "360pt").removesuffix("pt")) * 4 / 3
    _clean(root, prefix)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return Inline(ElementTree.tostring(root, encoding="unicode"), round(width))


def _clean(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _local(element.tag)
    element.attrib = {
        name: changed for key, value in element.attrib.items() if (name := _local(key)) in _SHAPES and (changed := _value(name, value, prefix))
    }
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in _ELEMENTS:
            _clean(child, prefix)
        else:
            element.remove(child)


def _value(name: str, value: str, prefix: str) -> str:
    """An attribute's value as the page may have it; empty where it may not."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else value if value.startswith("data:image/png;base64,") else ""
    if name == "clip-path":
        return re.sub(r"^url\(#(\w+)\)$", rf"url(#{prefix}-\1)", value) if re.fullmatch(r"url\(#\w+\)", value) else ""
    if name == "style":
        if "url(" in value or "@" in value:
            return ""
        return re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), value)
    return value


def _local(name: str) -> str:
    return name.rpartition("}")[2]
