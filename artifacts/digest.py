"""Names for bytes: the sha256 of a file, and the manifest that makes a directory one object.

A file is read once, in a stream, whether it is only hashed or hashed and copied. A directory is
the canonical JSON of ``{relative name: {"digest": ..., "size": ...}}``; its digest is that of this
text. Modes, times and empty directories are not content, so they are left out on purpose.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from artifacts.canonical import canonical_json
from artifacts.errors import StoreError

CHUNK = 1 << 20
"""Bytes read at a time: large enough for sha256 to be the limit, small beside any model."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Content(NamedTuple):
    """What a file holds: the sha256 (hex) of its bytes and how many there are."""

    digest: str
    size: int


def is_digest(value: object) -> bool:
    """Tell whether `value` is 64 lower-case hex characters."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def check_digest(value: str) -> str:
    """Return `value` if it is 64 lower-case hex characters, and so safe as a part of a path.

    Raises:
        StoreError: it is not.
    """
    if not is_digest(value):
        raise StoreError(f"{value!r} is not a digest or key: expected 64 hex characters (0-9a-f)")
    return value


def check_name(value: str) -> str:
    """Return `value` if it can name a role, a run, or one part of a member's path.

    Raises:
        StoreError: it is not 1 to 64 of ``A-Za-z0-9._-``, or it begins with a dot.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise StoreError(
            f"{value!r} is not a name the store takes: "
            "expected 1 to 64 of A-Z a-z 0-9 . _ - with no leading dot; rename it"
        )
    return value


def check_member(value: str) -> str:
    """Return `value` if it is a relative path whose every part is a name.

    Raises:
        StoreError: a part is not (an absolute path and ``..`` have such parts).
    """
    for part in value.split("/"):
        check_name(part)
    return value


def digest_stream(source: FileIO, sink: BinaryIO | None = None) -> Content:
    """Hash `source` from here to its end, in one reading; write the same bytes to `sink`."""
    hasher, size = sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    # An unbuffered file reads straight into our buffer: one copy less of each chunk.
    while count := source.readinto(buffer):
        hasher.update(buffer[:count])
        size += count
        if sink is not None:
            sink.write(buffer[:count])
    return Content(hasher.hexdigest(), size)


def digest_file(path: Path) -> Content:
    """Hash the file at `path`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as source:
        return digest_stream(source)


def digest_bytes(data: bytes) -> Content:
    """Hash `data`."""
    return Content(sha256(data).hexdigest(), len(data))


def walk_files(directory: Path) -> Iterator[str]:
    """Yield the relative name of everything under `directory` that is not a directory.

    A symbolic link is yielded, never followed: whether to refuse it is the caller's decision.

    Raises:
        OSError: a directory cannot be listed.
    """
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                for name in walk_files(directory / entry.name):
                    yield f"{entry.name}/{name}"
            else:
                yield entry.name


def encode_manifest(members: Mapping[str, Content]) -> bytes:
    """Return the bytes of the object that stands for a directory with these members.

    Raises:
        StoreError: a member's path is not relative and made of names.
    """
    return canonical_json(
        {check_member(name): dict(content._asdict()) for name, content in members.items()}
    )


def decode_manifest(data: bytes) -> dict[str, Content]:
    """Read what `encode_manifest` wrote.

    Raises:
        StoreError: `data` is not a manifest, for instance because it is a file's content.
    """
    try:
        members = {
            check_member(name): Content(check_digest(content["digest"]), int(content["size"]))
            for name, content in json.loads(data).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"not the manifest of a directory: {data[:60]!r}") from error
    return members
