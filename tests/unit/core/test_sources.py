"""Where examples come from: names, hub ids, paths and URLs."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorapar_core.config import DataConfig
from lorapar_core.data import sources
from lorapar_core.data.sources import Source, check, has_test, hub_rows, locate
from lorapar_core.errors import ConfigError, DataError

SHA = "a" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub answers every question about a commit; the names and branches it was asked for."""
    asked: list[str] = []

    def commit(name: str, branch: str, *, download_dir: Path, online: bool) -> str:
        asked.append(f"{name}@{branch}")
        return SHA if online else ""

    monkeypatch.setattr(sources, "_commit", commit)
    return asked


def found(text: str, tmp_path: Path, *, split: Any = "train", **fields: Any) -> Source:
    data = DataConfig(**{"source": text, **fields})
    return locate(text, split=split, data=data, download_dir=tmp_path)[0]


def test_named_sets(tmp_path: Path, hub: list[str]) -> None:
    assert found("gsm8k", tmp_path) == Source(
        "hub", "openai/gsm8k", SHA, config="main", split="train", shape="prompt_answer"
    )
    assert found("svamp", tmp_path, split="test").split == "test"
    assert found("dolly", tmp_path).shape == "alpaca"
    # Sets that have no test split are read from the one they have.
    assert found("dolly", tmp_path, split="test").split == "train"
    assert found("arithmetic", tmp_path, split="test") == Source(
        "arithmetic", "arithmetic", split="test"
    )
    assert [has_test(name) for name in ("arithmetic", "gsm8k", "svamp")] == [True] * 3
    assert [has_test(name) for name in ("dolly", "hub:a/b", "x.jsonl")] == [False] * 3


def test_any_hub_set(tmp_path: Path, hub: list[str]) -> None:
    source = found("hub:owner/name", tmp_path, columns={"prompt": "q"}, shape="prompt_answer")
    assert source == Source(
        "hub", "owner/name", SHA, split="train", shape="prompt_answer", columns={"prompt": "q"}
    )
    assert Source.from_json(json.loads(json.dumps(source.to_json()))) == source
    assert hub == ["owner/name@main"]
    # A branch is resolved, for it moves; a commit is what it is.
    assert found("hub:owner/name", tmp_path, revision="next").revision == SHA
    assert found("hub:owner/name", tmp_path, revision="b" * 40).revision == "b" * 40
    assert hub == ["owner/name@main", "owner/name@next"]
    # A pinned commit belongs to data.source, not to another test set.
    data = DataConfig(source="gsm8k", revision="b" * 40)
    other, _ = locate("svamp", split="test", data=data, download_dir=tmp_path)
    assert other.revision == SHA
    for bad in ("hub:", "hub:a/b/c", "hub:../x y"):
        with pytest.raises(ConfigError, match="hub:OWNER/NAME"):
            check(bad)


def test_a_named_sets_shape_is_not_the_users(tmp_path: Path, hub: list[str]) -> None:
    """The recipe's shape and columns are of the user's own file, not of the test set beside it."""
    source = found("gsm8k", tmp_path, split="test", shape="messages", columns={"prompt": "q"})
    assert (source.shape, source.columns) == ("prompt_answer", {})


def test_a_commit_once_known_stays_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading by commit leaves no trace of `main` in the hub's cache, so we note it."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    answers = iter([SHA, ConnectionError("offline")])

    def info(self: Any, name: str, **_: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    data = DataConfig(source="gsm8k")
    downloads = tmp_path / "downloads"

    def commit(*, online: bool) -> str:
        return locate("gsm8k", split="train", data=data, download_dir=downloads, online=online)[
            0
        ].revision

    assert commit(online=False) == ""
    assert [commit(online=online) for online in (True, False, True)] == [SHA] * 3


def test_a_branch_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not taken for a missing network, nor for the commit it once had."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    def info(self: Any, name: str, **_: Any) -> Any:
        answer = httpx.Response(404, request=httpx.Request("GET", "https://hf.co"))
        raise RevisionNotFoundError("404", response=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    (tmp_path / "openai--gsm8k@mian.commit").write_text(SHA)
    with pytest.raises(DataError, match="openai/gsm8k has no branch, tag or commit 'mian'"):
        found("gsm8k", tmp_path, revision="mian")


def test_a_hub_that_can_not_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def no_network(self: Any, name: str, **_: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", no_network)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"openai/gsm8k is not on this machine.*file's path"):
        found("gsm8k", tmp_path)
    main = tmp_path / "datasets--openai--gsm8k" / "refs" / "main"
    main.parent.mkdir(parents=True)
    main.write_text(SHA)
    assert found("gsm8k", tmp_path).revision == SHA


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "my data.jsonl"
    path.write_text("{}\n")
    for text in (str(path), path.as_uri()):
        check(text)
        source, at = locate(
            text, split="train", data=DataConfig(source=text), download_dir=tmp_path
        )
        assert at == path
        # A file is what it holds: neither its path nor its name is part of what a source is.
        assert source == Source("file", ".jsonl")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("gsm8", ConfigError, "unknown data source 'gsm8'; did you mean gsm8k"),
        ("Dolly", ConfigError, "did you mean dolly"),
        ("qqq", ConfigError, "unknown data source 'qqq'; known: arithmetic, lab, gsm8k"),
        ("none.jsonl", DataError, "none.jsonl: no such file"),
        ("folder/none.csv", DataError, "folder/none.csv: no such file"),
        ("openai/gsm8k", DataError, "write hub:openai/gsm8k"),
        ("https://host/a.txt", DataError, "unknown kind of file"),
    ],
)
def test_what_is_not_there_is_refused_before_any_work(
    text: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        check(text)
    with pytest.raises(kind, match=message):
        found(text, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_of_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="unknown kind of file"):
        check(str(tmp_path / "a.txt"))


def test_urls_are_fetched_whole(tmp_path: Path) -> None:
    import fsspec

    url = "memory://bucket/folder/a.jsonl"
    with fsspec.open(url, "wb") as file:
        file.write(b'{"a": 1}\n')
    data = DataConfig(source=url)
    downloads = tmp_path / "downloads"
    source, path = locate(url, split="train", data=data, download_dir=downloads)
    assert source == Source("file", ".jsonl")
    assert path is not None
    assert path.read_bytes() == b'{"a": 1}\n'
    assert path.name.endswith("-a.jsonl")
    with fsspec.open(url, "wb") as file:
        file.write(b'{"a": 2}\n')
    _, again = locate(url, split="train", data=data, download_dir=downloads)
    assert again == path
    assert path.read_bytes() == b'{"a": 2}\n'
    assert list(downloads.iterdir()) == [path]


def test_a_url_that_fails_leaves_nothing_and_tells_no_secret(tmp_path: Path) -> None:
    url = "memory://user:secret@bucket/none.jsonl?token=secret"
    with pytest.raises(DataError, match="can't be fetched") as error:
        found(url, tmp_path / "downloads")
    assert "secret" not in str(error.value)
    assert not list((tmp_path / "downloads").iterdir())


def test_offline_a_url_is_its_last_copy(tmp_path: Path) -> None:
    import fsspec

    url = "memory://bucket/copied.jsonl"
    data = DataConfig(source=url)
    with fsspec.open(url, "wb") as file:
        file.write(b'{"a": 1}\n')
    _, path = locate(url, split="train", data=data, download_dir=tmp_path)
    with fsspec.open(url, "wb") as file:
        file.write(b'{"a": 2}\n')
    _, offline = locate(url, split="train", data=data, download_dir=tmp_path, online=False)
    assert offline == path
    assert offline is not None
    assert offline.read_bytes() == b'{"a": 1}\n'


def test_offline_nothing_is_fetched(tmp_path: Path, hub: list[str]) -> None:
    downloads = tmp_path / "downloads"
    for text in ("memory://bucket/other.jsonl", "gsm8k"):
        data = DataConfig(source=text)
        _, path = locate(text, split="train", data=data, download_dir=downloads, online=False)
        assert path is None
    assert not downloads.exists()


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: Any, *, split: str, revision: Any) -> list[dict[str, Any]]:
        asked.append((name, config, split, revision))
        if name == "none/such":
            raise FileNotFoundError("Dataset doesn't exist\nmore")
        return [{"question": "Q", "answer": "A"}]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    source = Source("hub", "openai/gsm8k", SHA, config="main", split="train")
    assert list(hub_rows(source)) == [(1, {"question": "Q", "answer": "A"})]
    assert asked == [("openai/gsm8k", "main", "train", SHA)]
    with pytest.raises(DataError, match=r"none/such \(split train\) can't be loaded: Dataset d"):
        list(hub_rows(Source("hub", "none/such", split="train")))
