"""Digests of files and directories are those of their content, and their names are safe paths."""

import hashlib
from pathlib import Path

import pytest

from artifacts import StoreError
from artifacts.digest import (
    CHUNK,
    Content,
    check_digest,
    check_member,
    check_name,
    decode_manifest,
    digest_file,
    encode_manifest,
    walk_files,
)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
def test_digest_of_a_file_is_its_sha256(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    path = tmp_path / "data"
    path.write_bytes(data[:size])
    assert digest_file(path) == Content(hashlib.sha256(data[:size]).hexdigest(), size)


def test_manifest_is_sorted_and_comes_back() -> None:
    members = {"b": Content("b" * 64, 2), "a/c": Content("a" * 64, 1)}
    data = encode_manifest(members)
    assert data.index(b"a/c") < data.index(b'"b"')
    assert decode_manifest(data) == members


@pytest.mark.parametrize(
    "data",
    [b"", b"PAR1", b"[]", b"3", b'{"a":1}', b'{"../a":{"digest":"%s","size":1}}' % (b"a" * 64)],
)
def test_other_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(StoreError):
        decode_manifest(data)


@pytest.mark.parametrize("name", ["a", "examples.parquet", "A-b_c.1", "_x", "-x", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".git", "a/b", "a b", "é", "a\n", "x" * 65, None])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(StoreError):
        check_name(name)


@pytest.mark.parametrize("name", ["/a", "a//b", "a/", "../a", "a/../b", "a/./b", "a/.b", "a\\b"])
def test_members_that_are_refused(name: str) -> None:
    with pytest.raises(StoreError):
        check_member(name)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" * 22])
def test_digests_that_are_refused(digest: str) -> None:
    with pytest.raises(StoreError, match="64 hex"):
        check_digest(digest)


def test_walk_yields_links_but_does_not_follow_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert list(walk_files(tmp_path)) == ["a/b/file", "link"]
