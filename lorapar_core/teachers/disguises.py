"""The readings of a text: as it stands, and with the usual disguises taken off.

A language model reads through fullwidth letters, look-alikes from other alphabets, zero-width
characters, `1gn0re`, `i g n o r e`, base64 and rot13, so whoever searches a text for something has
to. Every reading takes time linear in the text. `unicodedata.normalize` alone doesn't: it sorts
combining marks by insertion (80,000 took 3.4 s, twice as many four times that), hence the slices.
"""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import partial
from typing import Literal
from urllib.parse import unquote

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
"""Characters that print as nothing, as the inside of a character class."""
# With them two Arabic ligatures that NFKC writes out in 18 and 8 letters.
_LEFT_OUT = re.compile(f"[{INVISIBLE}\x00-\x08\x0e-\x1f\x7f\ufdfa\ufdfb]")
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
"""Unicode's tag characters: ASCII that prints as nothing."""
_BLANKS = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_SLICE = 256

_LOOKS = {
    "a": "аɑαᴀ", "b": "ьʙƅ", "c": "сϲᴄ", "d": "ԁɗᴅ", "e": "еєεҽᴇ", "f": "ғꜰϝ", "g": "ɡցɢ",
    "h": "һհʜ", "i": "іɪıιӏ", "j": "јϳᴊ", "k": "кκᴋ", "l": "ⅼʟɭ", "m": "мᴍ", "n": "ոηɴп",
    "o": "оοσօᴏ", "p": "рρᴘ", "q": "ԛգ", "r": "гʀᴦ", "s": "ѕꜱʂ", "t": "тτᴛ", "u": "υսᴜ",
    "v": "νѵᴠ", "w": "ԝшωᴡ", "x": "хχ", "y": "уүγʏ", "z": "ᴢʐ",
}  # fmt: skip
_LATIN = {ord(look): letter for letter, looks in _LOOKS.items() for look in looks}
_QUOTES = {ord(quote): "'" for quote in "’‘ʼ´"} | {ord(quote): '"' for quote in "“”„«»"}

_LEET_WORD = re.compile(r"(?<![\w@$€|!])[a-z]*+[0-9@$€|!][a-z0-9@$€|!]*+")
_LEET = (
    str.maketrans("01345678@$€|!", "oieasgtbaseii"),
    str.maketrans("01345678@$€|!", "oleasgtbasell"),
)
_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[\s.*|/\\_-]{1,4}[^\W_](?![^\W_])){5,}")
_BETWEEN = re.compile(r"[\W_]+")

_WRAPPED = re.compile(r"(?<=[A-Za-z0-9+/]{40})\n(?=[A-Za-z0-9+/])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}+")
_HEX = re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}[ :]?){8,}+")
# Bounded: `html.unescape` raises on a reference of more digits than int() takes.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[a-zA-Z]{2,8};)")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")


def plain(text: str) -> str:
    """Compatibility forms resolved, invisible characters gone, case folded, one blank a gap."""
    shown = _LEFT_OUT.sub("", text if text.isascii() else text.translate(_TAGS))
    lines = _BREAKS.sub("\n", _normalized("NFKC", shown))
    return _BLANKS.sub(" ", lines.casefold())


def unaccented(plain_text: str) -> str:
    """A plain reading without accents and curly quotes."""
    return _ACCENTS.sub("", _normalized("NFKD", plain_text)).translate(_QUOTES)


def skeleton(unaccented_text: str) -> str:
    """The same with letters that only look Latin, from other alphabets, made Latin."""
    return unaccented_text if unaccented_text.isascii() else unaccented_text.translate(_LATIN)


def _normalized(form: Literal["NFKC", "NFKD", "NFC", "NFD"], text: str) -> str:
    if text.isascii():
        return text
    slices = (text[i : i + _SLICE] for i in range(0, len(text), _SLICE))
    return "".join(unicodedata.normalize(form, piece) for piece in slices)


def unleeted(skeleton_text: str) -> Iterator[str]:
    """The readings of words that mix letters and digits as letters, where there are such words.

    >>> list(unleeted("1gn0re ru1es 12"))
    ['ignore ruies 12', 'lgnore rules 12']
    """
    for table in _LEET:
        read = _LEET_WORD.sub(partial(_word, table), skeleton_text)
        if read != skeleton_text:
            yield read


def _word(table: dict[int, int], found: re.Match[str]) -> str:
    word = found[0]
    core = word.rstrip("!|")
    if core.isalpha() or not any(map(str.isalpha, core)):
        return word
    return core.translate(table) + word[len(core) :]


def joined(skeleton_text: str) -> tuple[str, str]:
    """The words spelled letter by letter, and the whole text, both without what is between letters.

    >>> joined("so i g n o r e it")
    ('ignore', 'soignoreit')
    """
    spelled = (_BETWEEN.sub("", found[0]) for found in _SPACED.finditer(skeleton_text))
    return "\n".join(spelled), _BETWEEN.sub("", skeleton_text)


def rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def decoded(text: str) -> str:
    """What base64, hexadecimal, HTML, URL and backslash escapes in the text say, a line each."""
    runs = _BASE64.finditer(_WRAPPED.sub("", text))
    found = [*(_from_base64(run[0]) for run in runs), *map(_from_hex, _HEX.findall(text))]
    unescaped = (_ENTITY.sub(_entity, text), unquote(text), _ESCAPE.sub(_character, text))
    found += [read for read in unescaped if read != text]
    return "\n".join(filter(None, found))


def _from_base64(run: str) -> str:
    whole = run[: len(run) - (len(run) % 4 == 1)].replace("-", "+").replace("_", "/")
    return _legible(base64.b64decode(whole + "=" * (-len(whole) % 4)))


def _from_hex(run: str) -> str:
    return _legible(bytes.fromhex(run.replace(":", " ")))


def _legible(raw: bytes) -> str:
    """The bytes as text, or nothing if they are none: nearly all random bytes fail here."""
    text = raw.decode("utf-8", "ignore")
    shown = sum(map(str.isprintable, text)) + text.count("\n")
    return text if shown >= 0.9 * len(text) and len(text.encode()) >= 0.9 * len(raw) else ""


def _entity(found: re.Match[str]) -> str:
    return html.unescape(found[0])


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1] or found[2], 16))
