"""The page: blocks as one HTML file that needs nothing else, and as Markdown.

A Content-Security-Policy forbids the page every connection and every script and style but its own
two, which it names by their hashes; so nothing that slipped through could run or call home.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorapar_core.report_block import Block, Html, Row

ASSETS = Path(__file__).with_name("report_assets")
_NUMERIC = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?(?: %)?|unknown|undefined|–|")


def as_html(
    title: str, blocks: Sequence[Block], *, head: Html | None = None, foot: Html | None = None
) -> str:
    """The page; `head` stands before the blocks, `foot` after them."""
    style, script = ((ASSETS / name).read_text() for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = html.escape(title)
    opening = f"<h1>{shown}</h1>{head or Html('')}{_contents(blocks)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<title>{shown}</title><meta name="viewport" content="width=device-width">'
        f"<style>{style}</style></head><body><header>{opening}</header>"
        f"<main>{sections(blocks)}{foot or Html('')}</main><script>{script}</script>"
        "</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data(name: str, value: Any) -> Html:
    """JSON for the page's script, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{name}">{safe}</script>')


def _contents(blocks: Sequence[Block]) -> str:
    titles = [block.title for block in blocks if not block.under]
    if len(titles) < 3:
        return ""
    links = "".join(f'<a href="#{_anchor(t)}">{html.escape(t)}</a>' for t in titles)
    return f'<nav aria-label="Contents">{links}</nav>'


def _anchor(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower())) or "part"


def sections(blocks: Sequence[Block]) -> Html:
    """A section for each block, with those that belong to it."""
    parts: list[list[Block]] = []
    for block in blocks:
        if block.under and parts:
            parts[-1].append(block)
        else:
            parts.append([block])
    return Html("".join(_section(part) for part in parts))


def _section(part: Sequence[Block]) -> str:
    body = "".join(_block(block) for block in part)
    return f'<section id="{_anchor(part[0].title)}">{body}</section>'


def _block(block: Block) -> str:
    level = "h3" if block.under else "h2"
    parts = [f"<{level}>{html.escape(block.title)}</{level}>"]
    if block.words:
        parts.append(f"<p>{html.escape(block.words)}</p>")
    if block.figures:
        parts.append('<div class="figures">' + "".join(block.figures) + "</div>")
    if block.rows:
        parts.append(table(block.header, block.rows, label=block.title))
    return "".join(parts)


def table(header: Row, rows: Sequence[Row], *, label: str = "") -> Html:
    """A table; columns of numbers stand to the right, and a wide one scrolls by itself."""
    numeric = [
        all(_NUMERIC.fullmatch(row[k]) for row in rows) and any(row[k] for row in rows)
        for k in range(len(header))
    ]
    head = "<thead>" + _row(header, "th", numeric) + "</thead>"
    body = "<tbody>" + "".join(_row(row, "td", numeric) for row in rows) + "</tbody>"
    shown = html.escape(label)
    return Html(
        f'<div class="scroll" role="region" aria-label="{shown}" tabindex="0"><table>{head}{body}'
        "</table></div>"
    )


def _row(cells: Row, tag: str, numeric: Sequence[bool]) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    parts = []
    for cell, right in zip(cells, numeric, strict=True):
        side = ' class="n"' if right else ""
        parts.append(f"<{tag}{scope}{side}>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def as_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown tables, without its figures."""
    parts = [f"# {_in_markdown(title)}"]
    for block in blocks:
        parts.append(f"{'###' if block.under else '##'} {_in_markdown(block.title)}")
        if block.words:
            parts.append(_in_markdown(block.words))
        if block.rows:
            lines = [block.header, ["---"] * len(block.header), *block.rows]
            cells = ([_in_markdown(cell) for cell in line] for line in lines)
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in cells))
    return "\n\n".join(parts) + "\n"


def _in_markdown(text: str) -> str:
    """`text` on one line, with nothing that Markdown takes for a tag or for the end of a cell."""
    return html.escape(" ".join(text.splitlines()), quote=False).replace("|", "&#124;")
