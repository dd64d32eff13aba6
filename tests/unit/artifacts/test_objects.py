"""Objects are named by their bytes, shared, read-only, and checked before they are believed."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts import CorruptObject, MissingObject, Ref, Store, StoreError
from artifacts.digest import Content, digest_file
from artifacts.intake import Intake
from artifacts.objects import Objects


@pytest.fixture
def objects(store: Store) -> Objects:
    return Objects(store.root)


@pytest.fixture
def intake(store: Store, objects: Objects) -> Intake:
    return Intake(store.root, objects)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


DAMAGE = {
    "flip": lambda path: overwrite(path, bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "truncate": lambda path: overwrite(path, path.read_bytes()[:-1]),
    "empty": lambda path: overwrite(path, b""),
    "grow": lambda path: overwrite(path, path.read_bytes() + b"x"),
    "swap": lambda path: (path.unlink(), path.write_bytes(b"another file")),
    "link": lambda path: (
        path.rename(path.with_name("elsewhere")),
        path.symlink_to(path.with_name("elsewhere")),
    ),
}


@pytest.fixture(params=DAMAGE)
def damage(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return DAMAGE[request.param]


def test_a_file_is_stored_under_its_sha256(
    intake: Intake, objects: Objects, tree: Callable[..., Path]
) -> None:
    ref = intake.put(tree({"f": b"content"}) / "f")
    digest = hashlib.sha256(b"content").hexdigest()
    assert ref == Ref(digest, 7, "file")
    assert objects.path(digest).parts[-3:] == ("cas", digest[:2], digest)
    assert objects.path(digest).read_bytes() == b"content"
    assert objects.path(digest).stat().st_mode & 0o777 == 0o444


def test_a_directory_is_the_sum_of_its_files(
    intake: Intake, objects: Objects, tree: Callable[..., Path], tmp_path: Path
) -> None:
    one = intake.put(tree({"a/x": b"12", "b": b"345"}, tmp_path / "1"))
    (tmp_path / "1" / "empty").mkdir()
    os.utime(tmp_path / "1" / "b", (0, 0))
    assert intake.put(tmp_path / "1") == one
    assert (one.size, one.kind) == (5, "dir")
    assert set(objects.members(one.digest)) == {"a/x", "b"}
    assert intake.put(tree({"a/x": b"12", "c": b"345"}, tmp_path / "2")).digest != one.digest


def test_equal_files_are_one_object(
    intake: Intake, objects: Objects, tree: Callable[..., Path]
) -> None:
    intake.put(tree({"a": b"same", "b": b"same", "c": b"other"}))
    assert len(list(objects.digests())) == 3  # two contents and the manifest


def test_a_source_outside_the_store_is_left_alone(
    intake: Intake, objects: Objects, tree: Callable[..., Path]
) -> None:
    source = tree({"f": b"content"}) / "f"
    before = source.stat()
    ref = intake.put(source)
    after = source.stat()
    assert (after.st_mode, after.st_nlink, after.st_ino) == (
        before.st_mode,
        1,
        before.st_ino,
    )
    assert after.st_ino != objects.path(ref.digest).stat().st_ino


def test_scratch_is_linked_and_read_once(
    store: Store,
    intake: Intake,
    objects: Objects,
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a gigabyte of adapter must not be copied, nor hashed again by its first reader."""
    source = tree({"f": b"content"}, store.scratch("a" * 64)) / "f"
    hashed = []

    def counted(path: Path) -> Content:
        hashed.append(path)
        return digest_file(path)

    monkeypatch.setattr("artifacts.intake.digest_file", counted)
    monkeypatch.setattr("artifacts.objects.digest_file", counted)
    ref = intake.put(source)
    path = objects.verified(ref.digest)
    assert path.samefile(source)
    assert source.stat().st_mode & 0o777 == 0o444
    assert hashed == [source]


def test_putting_scratch_again_changes_nothing(
    store: Store, intake: Intake, tree: Callable[..., Path]
) -> None:
    source = tree({"f": b"content"}, store.scratch("a" * 64)) / "f"
    assert intake.put(source) == intake.put(source)
    assert source.stat().st_nlink == 2


def test_scratch_with_a_foreign_name_is_copied(
    store: Store, intake: Intake, objects: Objects, tree: Callable[..., Path]
) -> None:
    """The other name belongs to somebody who may write to the file."""
    foreign = tree({"f": b"content"}) / "f"
    os.link(foreign, store.scratch("a" * 64) / "f")
    ref = intake.put(store.scratch("a" * 64) / "f")
    assert not objects.path(ref.digest).samefile(foreign)
    assert foreign.stat().st_mode & 0o200


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_without_hard_links_files_are_copied(
    store: Store,
    intake: Intake,
    objects: Objects,
    tree: Callable[..., Path],
    tmp_path: Path,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    root = store.scratch("a" * 64) if where == "inside" else tmp_path / "source"
    ref = intake.put(tree({"d/f": b"content"}, root) / "d")
    assert (root / "d" / "f").read_bytes() == b"content"
    assert objects.has(ref)
    view = store.path(ref)
    assert (view / "f").read_bytes() == b"content"
    assert (view / "f").stat().st_mode & 0o777 == 0o444


def test_links_and_special_files_are_refused(intake: Intake, tree: Callable[..., Path]) -> None:
    source = tree({"f": b"content"})
    (source / "link").symlink_to("f")
    os.mkfifo(source / "pipe")
    for path in (source / "link", source / "pipe", source):
        with pytest.raises(StoreError, match="no regular file"):
            intake.put(path)


def test_odd_names_and_empty_directories_are_refused(
    intake: Intake, tree: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="'a b'"):
        intake.put(tree({"a b": b""}, tmp_path / "1"))
    (tmp_path / "2" / "empty").mkdir(parents=True)
    with pytest.raises(StoreError, match="holds no file"):
        intake.put(tmp_path / "2")


def test_a_source_that_changes_is_refused(
    store: Store, intake: Intake, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree({"f": b"content"}) / "f"
    genuine = os.fsync

    def write_more(descriptor: int) -> None:
        source.write_bytes(b"content and more")
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", write_more)
    with pytest.raises(StoreError, match="changed while"):
        intake.put(source)
    assert list(Objects(store.root).digests()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_damage_is_quarantined_and_never_read(
    store: Store,
    intake: Intake,
    objects: Objects,
    tree: Callable[..., Path],
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ref = intake.put(tree({"f": b"content"}) / "f")
    damage(objects.path(ref.digest))
    with caplog.at_level(logging.WARNING), pytest.raises(CorruptObject, match=ref.digest):
        objects.verified(ref.digest)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [path.name[:64] for path in (store.root / "quarantine").iterdir()] == [ref.digest]
    assert not objects.has(ref)
    with pytest.raises(MissingObject):
        objects.verified(ref.digest)


def test_a_damaged_object_is_not_trusted_for_its_name(
    store: Store, tree: Callable[..., Path], damage: Callable[[Path], object]
) -> None:
    source = tree({"f": b"content"}) / "f"
    ref = Intake(store.root, Objects(store.root)).put(source)
    damage(Objects(store.root).path(ref.digest))
    objects = Objects(store.root)
    assert Intake(store.root, objects).put(source) == ref
    assert objects.verified(ref.digest).read_bytes() == b"content"
    assert objects.path(ref.digest).stat().st_mode & 0o777 == 0o444
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_a_good_replacement_is_not_quarantined(
    store: Store,
    objects: Objects,
    intake: Intake,
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process may repair the object between our look at it and our move."""
    source = tree({"f": b"content"}) / "f"
    ref = intake.put(source)
    path = objects.path(ref.digest)
    overwrite(path, b"damaged")
    genuine = Objects._mismatch

    def mismatch_then_repair(self: Objects, *args: Any, **kwargs: Any) -> str:
        reason = genuine(self, *args, **kwargs)
        path.rename(path.with_name("moved"))
        monkeypatch.setattr(Objects, "_mismatch", genuine)
        Intake(store.root, Objects(store.root)).put(source)
        return reason

    monkeypatch.setattr(Objects, "_mismatch", mismatch_then_repair)
    with pytest.raises(CorruptObject):
        objects.verified(ref.digest)
    assert path.read_bytes() == b"content"
    assert list((store.root / "quarantine").iterdir()) == []


def test_sizes_decide_presence(intake: Intake, objects: Objects, tree: Callable[..., Path]) -> None:
    file = intake.put(tree({"d/f": b"content"}) / "d" / "f")
    directory = intake.put(tree({"d/f": b"content"}) / "d")
    assert objects.has(file)
    assert objects.has(directory)
    assert not objects.has(Ref(file.digest, 8, "file"))
    assert not objects.has(Ref(directory.digest, 8, "dir"))
    assert not objects.has(Ref(file.digest, 7, "dir"))
    overwrite(objects.path(file.digest), b"short")
    assert not objects.has(file)
    assert not objects.has(directory)


def test_a_view_is_read_only_links(
    store: Store, intake: Intake, objects: Objects, tree: Callable[..., Path]
) -> None:
    ref = intake.put(tree({"a/x": b"12", "b": b"345"}))
    view = store.path(ref)
    assert view == store.root / "views" / ref.digest
    for name, content in objects.members(ref.digest).items():
        assert (view / name).samefile(objects.path(content.digest))
        assert (view / name).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    "harm",
    [
        lambda view: (view / "b").unlink(),
        lambda view: (view / "extra").touch(),
        lambda view: ((view / "b").unlink(), (view / "b").write_bytes(b"999")),
        lambda view: ((view / "b").unlink(), (view / "b").symlink_to("a/x")),
        lambda view: (view.rename(view.with_name("moved")), view.touch()),
    ],
)
def test_a_view_that_is_not_whole_is_made_again(
    store: Store, intake: Intake, tree: Callable[..., Path], harm: Callable[[Path], object]
) -> None:
    ref = intake.put(tree({"a/x": b"12", "b": b"345"}))
    harm(store.path(ref))
    view = store.path(ref)
    assert sorted(path.name for path in view.iterdir()) == ["a", "b"]
    assert (view / "b").read_bytes() == b"345"
    assert list((store.root / "tmp").iterdir()) == []


def test_a_member_damaged_through_its_view_is_found(
    store: Store, intake: Intake, tree: Callable[..., Path]
) -> None:
    """A link shares the object's bytes, so whoever forces his way into one harms the object."""
    ref = intake.put(tree({"a/x": b"12", "b": b"345"}))
    overwrite(store.path(ref) / "b", b"346")
    with pytest.raises(CorruptObject):
        Store.open(store.root).path(ref)
    with pytest.raises(MissingObject):
        store.path(ref)
    intake.put(tree({"a/x": b"12", "b": b"345"}))
    assert (store.path(ref) / "b").read_bytes() == b"345"


def test_a_file_has_no_view(store: Store, intake: Intake, tree: Callable[..., Path]) -> None:
    ref = intake.put(tree({"f": b"content"}) / "f")
    with pytest.raises(StoreError, match="not the manifest"):
        store.path(Ref(ref.digest, ref.size, "dir"))
