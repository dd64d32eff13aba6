"""Records: which action gave which objects. A record is written last, so it means "complete".

``actions/<key>.json`` is the only place that says so. A record that cannot be read whole counts as
absent: the action is then run again, which is always right and sometimes slow.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from artifacts.canonical import canonical_json
from artifacts.digest import check_digest, check_name
from artifacts.durable import write_whole
from artifacts.errors import StoreError


@dataclass(frozen=True, slots=True)
class Ref:
    """The content of one role.

    Raises:
        StoreError: a field is out of its bounds.
    """

    digest: str
    """sha256 (hex) of the file, or of the directory's manifest."""
    size: int
    """Bytes of content: of the file, or of all members of the directory together."""
    kind: Literal["file", "dir"]

    def __post_init__(self) -> None:
        check_digest(self.digest)
        if type(self.size) is not int or self.size < 0:
            raise StoreError(f"size of {self.digest} is {self.size!r}: expected an int >= 0")
        if self.kind not in ("file", "dir"):
            raise StoreError(f"kind of {self.digest} is {self.kind!r}: expected 'file' or 'dir'")

    def to_json(self) -> dict[str, Any]:
        """Return a plain JSON value that `from_json` reads."""
        return {"digest": self.digest, "size": self.size, "kind": self.kind}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Ref":
        """Read what `to_json` gave.

        Raises:
            StoreError: a field is missing, unknown, or out of its bounds.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise StoreError(f"{value!r} is not a ref: expected digest, size and kind") from error


@dataclass(frozen=True, slots=True)
class Record:
    """What an action was, what it read, and what it gave.

    Raises:
        StoreError: the key is not a digest, a role is not a name, or a field has the wrong type.
    """

    key: str
    """The action key, and the name of the file that holds this record."""
    stage: str
    name: str
    """The action as people see it, such as ``score[1]``."""
    version: int
    """The stage's VERSION when it ran."""
    config: Mapping[str, Any]
    """The part of the configuration that is in the key."""
    inputs: Mapping[str, str]
    """Role to digest of what was read."""
    outputs: Mapping[str, Ref]
    """Role to what was made."""
    provenance: Mapping[str, Any]
    """Commit, versions, hardware, times: told for the reader, part of no key."""

    def __post_init__(self) -> None:
        check_digest(self.key)
        for role in self.outputs:
            check_name(role)
        for field in ("stage", "name"):
            if not isinstance(getattr(self, field), str):
                raise StoreError(f"{field} of record {self.key} is not text: {self!r:.200}")
        for field in ("config", "inputs", "provenance"):
            if not isinstance(getattr(self, field), Mapping):
                raise StoreError(f"{field} of record {self.key} is not a mapping: {self!r:.200}")

    def to_json(self) -> dict[str, Any]:
        """Return a plain JSON value that `from_json` reads."""
        return {
            "key": self.key,
            "stage": self.stage,
            "name": self.name,
            "version": self.version,
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "outputs": {role: ref.to_json() for role, ref in self.outputs.items()},
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Record":
        """Read what `to_json` gave.

        Raises:
            StoreError: a field is missing, unknown, or out of its bounds.
        """
        try:
            outputs = {role: Ref.from_json(ref) for role, ref in value["outputs"].items()}
            return cls(**{**value, "outputs": outputs})
        except (TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"not a record ({error}): {str(value)[:200]}") from error


def encode_record(record: Record) -> bytes:
    """Return the bytes of the record's file.

    Raises:
        StoreError: a field holds what canonical JSON refuses; the message has its path.
    """
    try:
        return canonical_json(record.to_json()) + b"\n"
    except (TypeError, ValueError) as error:
        raise StoreError(f"record of {record.name!r} cannot be written: {error}") from error


def write_record(directory: Path, record: Record, *, tmp: Path) -> Record:
    """Write `record` whole and return it as a reader will see it (a tuple has become a list).

    Raises:
        StoreError: as `encode_record`.
        OSError: the disk refuses; no record, or the former one, is there.
    """
    data = encode_record(record)
    write_whole(directory / f"{record.key}.json", data, tmp=tmp)
    return Record.from_json(json.loads(data))


def read_record(directory: Path, key: str) -> Record | None:
    """Return the record of `key`, or None if it is absent, torn, or another key's.

    Raises:
        StoreError: `key` is not 64 hex characters.
        OSError: it is there and cannot be read.
    """
    document = read_document(directory / f"{check_digest(key)}.json")
    try:
        record = Record.from_json(document) if document is not None else None
    except StoreError:
        return None
    return record if record is not None and record.key == key else None


def read_records(directory: Path) -> Iterator[Record]:
    """Yield every whole record in `directory`, in no particular order."""
    for path in directory.glob("*.json"):
        try:
            record = read_record(directory, path.stem)
        except StoreError:  # a file that somebody else put there
            continue
        if record is not None:
            yield record


def read_document(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None if it is absent or not whole.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None
