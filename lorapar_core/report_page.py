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
SHORT = 34
"""Characters of a text that stays on one line of a table."""
_CODE = re.compile(r"`([^`]+)`")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMERIC = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?(?: %)?|unknown|undefined|–|")


def as_html(title: str, blocks: Sequence[Block], *, head: Html | None = None) -> str:
    """The page; `head` stands between its title and its contents."""
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
        f"<main>{sections(blocks)}</main><script>{script}</script>"
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
    section = f'<section id="{_anchor(part[0].title)}">{body}</section>'
    slot = part[0].slot
    return f"<!--{slot}-->{section}<!--/{slot}-->" if slot else section


def filled(page: str, slot: str, blocks: Sequence[Block]) -> str:
    """The page with these blocks where its slot is; as it is where it has no such slot.

    No text of others can imitate a slot: it is escaped, and a comment begins with `<`.
    """
    before, begin, rest = page.partition(f"<!--{slot}-->")
    _, end, after = rest.partition(f"<!--/{slot}-->")
    return before + sections(blocks) + after if begin and end else page


def _block(block: Block) -> str:
    level = "h3" if block.under else "h2"
    parts = [f"<{level}>{html.escape(block.title)}</{level}>"]
    if block.words:
        parts.append(f"<p>{_CODE.sub(_as_code, html.escape(block.words))}</p>")
    if block.figures:
        parts.append('<div class="figures">' + "".join(block.figures) + "</div>")
    if block.rows:
        shown = table(block.header, block.rows, label=block.title)
        parts.append(_folded(shown, len(block.rows)) if block.folded else shown)
    return "".join(parts)


def _folded(shown: Html, rows: int) -> str:
    return f"<details><summary>{rows:,} rows</summary>{shown}</details>"


def facts(told: Sequence[tuple[str, str]]) -> Html:
    """Figures that stand out: value and name of each."""
    shown = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for value, name in told
    )
    return Html(f'<dl class="facts">{shown}</dl>')


def table(header: Row, rows: Sequence[Row], *, label: str = "") -> Html:
    """A table; columns of numbers stand to the right, and a wide one scrolls by itself."""
    kinds = [_kind([row[k] for row in rows]) for k in range(len(header))]
    head = "<thead>" + _row(header, "th", kinds) + "</thead>" if any(header) else ""
    body = "<tbody>" + "".join(_row(row, "td", kinds) for row in rows) + "</tbody>"
    shown = html.escape(label)
    return Html(
        f'<div class="scroll" role="region" aria-label="{shown}" tabindex="0"><table>{head}{body}'
        "</table></div>"
    )


def _kind(cells: Sequence[str]) -> str:
    """Of a column: `n` numbers, `h` digests, `t` short texts that stay on a line, `w` words that
    wrap."""
    if any(cells) and all(_NUMERIC.fullmatch(cell) for cell in cells):
        return "n"
    if cells and all(_DIGEST.fullmatch(cell) for cell in cells):
        return "h"
    return "t" if all(len(cell) <= SHORT for cell in cells) else "w"


def _row(cells: Row, tag: str, kinds: Sequence[str]) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    shown = "".join(
        f'<{tag}{scope} class="{kind}">{html.escape(cell)}</{tag}>'
        for cell, kind in zip(cells, kinds, strict=True)
    )
    return f"<tr>{shown}</tr>"


def _as_code(found: re.Match[str]) -> str:
    return f"<code>{found[1]}</code>"


def as_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown tables, without what is only drawn and without slots, which nobody
    fills."""
    parts = [f"# {_in_markdown(title)}"]
    for block in blocks:
        if block.slot or (block.figures and not block.rows):
            continue
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
