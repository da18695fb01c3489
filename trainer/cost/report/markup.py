"""Elements of a page. Every text and attribute passes through here, so none is left unescaped."""

from __future__ import annotations

import unicodedata
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

MARK = '<!doctype html>\n<html lang="en"><head><meta name="generator" content="tallygrad">'
# Unicode categories that are replaced: controls, formats such as marks of direction, unassigned
# code points and surrogates. Names in files could otherwise disguise what a page says.
UNFIT = ("Cc", "Cf", "Cn", "Cs")


def element(tag: str, *children: Element | str | None, **attributes: str | float) -> Element:
    """Return an element with children, of which None is skipped. In names of attributes `class_`
    stands for `class` and `_` for `-`."""
    node = Element(tag, {_attribute(name): _value(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif child is not None:
            _add_text(node, clean(child))
    return node


def clean(text: str) -> str:
    """Return a text with U+FFFD in place of every character of an `UNFIT` category."""
    return "".join("\ufffd" if unicodedata.category(c) in UNFIT else c for c in text)


def document(*parts: Element, title: str, style: str) -> str:
    """Return a complete page. It loads and runs nothing, and its content security policy forbids
    both."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    sheet = Element("style")
    sheet.text = style  # our own: HTML takes it as it is
    head = element(
        "head",
        element("meta", name="generator", content="tallygrad"),  # `MARK`: pages begin with it
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        sheet,
    )
    page = element("html", head, element("body", element("main", *parts)), lang="en")
    return f"<!doctype html>\n{ElementTree.tostring(page, encoding='unicode', method='html')}\n"


def _attribute(name: str) -> str:
    return "viewBox" if name == "viewBox" else name.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return clean(value) if isinstance(value, str) else f"{value:.6g}"


def _add_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
