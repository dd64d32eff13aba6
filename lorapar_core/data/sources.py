"""Where examples come from: our own problems, a file, or a data set on the Hugging Face hub.

A `Source` is identity: it goes into the action key, so it holds a hub set's commit, and of a file
only its suffix: its content is an input, keyed by digest, and its name and path are nobody's
business. Light to import: the parent process locates sources, a child reads them.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from lorapar_core.config import DataConfig
from lorapar_core.data.rows import SUFFIXES, Rows, suffix
from lorapar_core.errors import ConfigError, DataError

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Source:
    """One split of one place that examples come from."""

    kind: Literal["arithmetic", "lab", "file", "hub"]
    name: str
    """`arithmetic`, `lab`, the hub id, or a file's suffix: a file is named by its content."""
    revision: str = ""
    """Commit of a hub set; empty where it couldn't be found out."""
    config: str = ""
    """A hub set's configuration."""
    split: str = ""
    """Split of a hub set or of one of ours."""
    shape: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Source:
        return cls(**fields)


_NAMED = {
    "arithmetic": Source("arithmetic", "arithmetic"),
    "lab": Source("lab", "lab"),
    "gsm8k": Source("hub", "openai/gsm8k", config="main", shape="prompt_answer"),
    "svamp": Source("hub", "ChilleD/SVAMP", shape="prompt_answer"),
    "dolly": Source("hub", "databricks/databricks-dolly-15k", shape="alpaca"),
    "open-platypus": Source("hub", "garage-bAInd/Open-Platypus", shape="alpaca"),
    "codealpaca": Source("hub", "sahil2801/CodeAlpaca-20k", shape="alpaca"),
}
OURS = ("arithmetic", "lab")
"""Kinds whose problems are written here."""
_WITH_TEST = {*OURS, "gsm8k", "svamp"}


def has_test(text: str) -> bool:
    """Whether the source has a test set of its own. Only named sets are known to."""
    return text in _WITH_TEST


def is_named(text: str) -> bool:
    """Whether the source is a set whose shape and columns we know; a recipe's don't count there."""
    return text in _NAMED


def is_file(text: str) -> bool:
    """Whether the source is a file by path, and not a named set, the hub's, or a URL."""
    return bool(text) and text not in _NAMED and not text.startswith("hub:") and not _is_url(text)


def check(text: str) -> None:
    """Refuse a source that can't be, without the network and without reading it.

    Raises:
        ConfigError: no such named set.
        DataError: no such file, or a kind of file that can't be read.
    """
    if text in _NAMED:
        return
    if text.startswith("hub:"):
        _hub_id(text)
    elif _is_url(text):
        _url_name(text)
    else:
        _file(text)


def locate(
    text: str, *, split: Split, data: DataConfig, download_dir: Path, online: bool = True
) -> tuple[Source, Path | None]:
    """The source that `text` (a `data.source` or `data.test_source`) names, and a file's path.

    A URL is fetched whole into `download_dir`, anew each time, so that a changed file is noticed.
    Not `online`, a URL has the path of its last copy, and a hub set the commit that this machine
    has, or none.

    Raises:
        ConfigError: no such named set.
        DataError: no such file, or it can't be fetched, or the hub set's commit can't be known.
    """
    if text in _NAMED:
        named = _NAMED[text]
        own = split if text in _WITH_TEST else "train"
        source = replace(named, split=own)
        path = None
    elif text.startswith("hub:"):
        source, path = Source("hub", _hub_id(text), split=split), None
    elif _is_url(text):
        source = Source("file", suffix(_url_name(text)))
        path = _fetched(text, download_dir) if online else _fetched_before(text, download_dir)
    else:
        path = _file(text)
        source = Source("file", suffix(path.name))
    if source.kind in OURS:
        return source, None
    if source.kind == "hub":
        wanted = data.revision if text == data.source else ""
        source = at_commit(source, wanted, download_dir=download_dir, online=online)
    if text in _NAMED:  # its shape is known; the recipe's is for the user's own data
        return source, path
    columns = {str(ours): theirs for ours, theirs in data.columns.items()}
    return replace(source, shape=data.shape, columns=columns), path


def at_commit(source: Source, revision: str, *, download_dir: Path, online: bool) -> Source:
    """A hub set at the commit that `revision` (empty: the main branch) names.

    Raises:
        DataError: as `locate`.
    """
    if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch moves
        branch = revision or "main"
        revision = _commit(source.name, branch, download_dir=download_dir, online=online)
    return replace(source, revision=revision)


def hub_rows(source: Source) -> Rows:
    """Yield (row number, row) of a hub set, from the hub or from this machine's copy of it.

    Raises:
        DataError: it can't be loaded.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(
            source.name,
            source.config or None,
            split=source.split,
            revision=source.revision or None,
        )
    except Exception as error:
        raise DataError(
            f"hub data set {source.name} (split {source.split}) can't be loaded: "
            f"{_first_line(error)}; check the id and the network, or download it and give "
            "data.source the file's path"
        ) from error
    for number, row in enumerate(loaded, start=1):
        yield number, dict(row)


def _hub_id(text: str) -> str:
    name = text.removeprefix("hub:")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ConfigError(f"{text!r} names no hub data set; write hub:OWNER/NAME")
    return name


def _commit(name: str, branch: str, *, download_dir: Path, online: bool) -> str:
    """The commit that a branch or tag names on the hub, or the one it named when we last asked.

    We note it in `download_dir`: the hub's client does so only for who asks it for it by name.

    Raises:
        DataError: the hub doesn't know the set or the branch, or can't be asked and the set isn't
            here either.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    known = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / branch
    noted = download_dir / f"{f'{name}@{branch}'.replace('/', '--')}.commit"
    here = next((file.read_text().strip() for file in (noted, known) if file.is_file()), "")
    if not online:
        return here
    try:
        commit = str(HfApi().dataset_info(name, revision=branch, timeout=10).sha or here)
    except RepositoryNotFoundError as error:
        raise DataError(
            f"the hub has no data set {name}, or you need to log in for it; check the id, or "
            "run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"data set {name} has no branch, tag or commit {branch!r}; check data.revision"
        ) from error
    except Exception as error:
        if here:
            return here
        raise DataError(
            f"data set {name} is not on this machine, and the hub can't be asked "
            f"({type(error).__name__}); check the network, or give data.source a file's path"
        ) from error
    download_dir.mkdir(parents=True, exist_ok=True)
    noted.write_text(commit + "\n")
    return commit


def _is_url(text: str) -> bool:
    return "://" in text and not text.startswith("file://")


def _file(text: str) -> Path:
    plain = unquote(urlsplit(text).path) if text.startswith("file://") else text
    path = Path(os.path.expanduser(plain))  # noqa: PTH111  leaves an unknown ~name as it is
    if os.path.isfile(path):  # noqa: PTH113  takes a name of any length
        _require_known(path.name, text)
        return path
    if "/" not in text and suffix(text) not in SUFFIXES:
        raise ConfigError(_unknown(text))
    looks_like_id = re.fullmatch(r"[\w-]+/[\w.-]+", text) and suffix(text) not in SUFFIXES
    hint = f"; for a data set on the hub write hub:{text}" if looks_like_id else ""
    raise DataError(f"{text}: no such file (looked for {path.absolute()}){hint}")


def _unknown(text: str) -> str:
    near = difflib.get_close_matches(text.lower(), _NAMED, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"unknown data source {text!r}; {meant}known: {', '.join(_NAMED)}, hub:DATASET, or a path "
        f"or URL of {', '.join(SUFFIXES)}"
    )


def _file_name(url: str) -> str:
    """The file's own name, of a chained URL ("zip://a.csv::https://...") the first's."""
    return unquote(url.partition("::")[0].partition("?")[0]).rpartition("/")[2]


def _shown(url: str) -> str:
    """The URL without user, password and query, which may hold secrets."""
    return re.sub(r"\?[^:]*", "", re.sub(r"(?<=://)[^/@]*@", "", url))


def _url_name(url: str) -> str:
    name = _file_name(url)
    _require_known(name, _shown(url))
    return name


def _require_known(name: str, shown: str) -> None:
    if suffix(name) not in SUFFIXES:
        raise DataError(
            f"{shown}: unknown kind of file; expected {', '.join(SUFFIXES)}, each also with .gz"
        )


def _copy_of(url: str, download_dir: Path) -> Path:
    return download_dir / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_url_name(url)}"


def _fetched_before(url: str, download_dir: Path) -> Path | None:
    copy = _copy_of(url, download_dir)
    return copy if copy.is_file() else None


def _fetched(url: str, download_dir: Path) -> Path:
    import fsspec

    download_dir.mkdir(parents=True, exist_ok=True)
    target = _copy_of(url, download_dir)
    handle, partial = tempfile.mkstemp(dir=download_dir, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as to, fsspec.open(url, "rb") as of:
            while block := of.read(1 << 20):
                to.write(block)
        Path(partial).replace(target)
    except Exception as error:
        raise DataError(
            f"{_shown(url)}: can't be fetched ({_shown(_first_line(error))}); check the address "
            "and your access, or download it and give the file's path"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return target


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
