"""Checkpoints: whole or not there; the newest whole one counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorapar_core import checkpoints
from lorapar_core.checkpoints import MANIFEST, Checkpoint, keep, newest, prepare, read
from lorapar_core.errors import TrainingError
from lorapar_core.surroundings import difference, require_same

HERE: dict[str, Any] = {"device": "a processor", "threads": 2, "torch": "2.13.0"}


def kept(folder: Path, step: int, **changed: Any) -> Path:
    def fill(directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps({"step": step}))
        (directory / "state.safetensors").write_bytes(bytes(range(100)))

    facts = {"fill": fill, "step": step, "total": 9, "identity": "a" * 64, "surroundings": HERE}
    folder.mkdir(exist_ok=True)
    return keep(folder, **{**facts, **changed})


def find(folder: Path, *others: Path) -> Checkpoint | None:
    return newest(folder, identity="a" * 64, others=others)


def test_it_tells_what_it_was_told(tmp_path: Path) -> None:
    path = kept(tmp_path, 3, history=[{"step": 1, "exact": True}])
    assert path == tmp_path / "step-00000003"
    history = ({"step": 1, "exact": True},)
    assert read(path) == Checkpoint(path, 3, 9, "a" * 64, HERE, history)
    assert find(tmp_path) == read(path)


def test_the_newest_two_stay_and_the_newest_counts(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        kept(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    found = find(tmp_path)
    assert found is not None
    assert found.step == 100


def test_one_from_elsewhere_counts_if_it_is_newer(tmp_path: Path) -> None:
    kept(tmp_path / "here", 5)
    other = kept(tmp_path / "there", 6).rename(tmp_path / ("f" * 64))
    found = find(tmp_path / "here", other)
    assert found is not None
    assert found.path == other
    kept(tmp_path / "here", 7)
    found = find(tmp_path / "here", other)
    assert found is not None
    assert found.step == 7


def damage(path: Path, how: str) -> None:
    manifest = path / MANIFEST
    if how == "no manifest":
        manifest.unlink()
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:-40])
    elif how == "another format":
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    elif how == "not an object":
        manifest.write_text("[]")
    elif how == "a file less":
        (path / "state.json").unlink()
    elif how == "a file cut off":
        (path / "state.safetensors").write_bytes(bytes(range(99)))
    else:
        (path / "state.json").write_text('{"step": 4}')


@pytest.mark.parametrize(
    "how",
    [
        "no manifest",
        "half a manifest",
        "another format",
        "not an object",
        "a file less",
        "a file cut off",
        "a file changed",
    ],
)
def test_a_torn_one_is_left_out_and_the_log_says_so(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path, 2)
    damage(kept(tmp_path, 3), how)
    found = find(tmp_path)
    assert found is not None
    assert found.step == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "checkpoint step-00000003 is not whole and is left out" in record.getMessage()


def test_none_is_none(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") is None
    damage(kept(tmp_path, 3), "no manifest")
    assert find(tmp_path) is None


def test_a_torn_one_is_replaced_by_the_same_step(tmp_path: Path) -> None:
    damage(kept(tmp_path, 3), "no manifest")
    kept(tmp_path, 3)
    found = find(tmp_path)
    assert found is not None
    assert found.step == 3


def test_what_was_left_out_gives_way_to_what_comes_after(tmp_path: Path) -> None:
    """Two torn ones of higher steps: what is kept from now on counts, and stays."""
    for step in (8, 9):
        damage(kept(tmp_path, step), "no manifest")
    assert find(tmp_path) is None
    for step in (1, 2, 3):
        assert kept(tmp_path, step).is_dir()
        found = find(tmp_path)
        assert found is not None
        assert found.step == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".nfs0001").write_text("a file system's")
    prepare(tmp_path)
    assert (tmp_path / ".nfs0001").exists()


def test_another_stage_is_refused(tmp_path: Path) -> None:
    kept(tmp_path, 3, identity="b" * 64)
    with pytest.raises(TrainingError, match=r"step-00000003 is of another stage or recipe \(bbbb"):
        find(tmp_path)


def test_a_disk_that_refuses_leaves_what_was_kept(tmp_path: Path) -> None:
    kept(tmp_path, 2)

    def fill(directory: Path) -> None:
        (directory / "state.json").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"step 3 can't be written to .*No space left"):
        kept(tmp_path, 3, fill=fill)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    found = find(tmp_path)
    assert found is not None
    assert found.step == 2


def test_a_folder_that_has_gone_away_is_not_made_anew(tmp_path: Path) -> None:
    """A disk that was unmounted leaves its mount point, and what is written there is lost."""
    kept(tmp_path / "disk", 2)

    def gone(directory: Path) -> None:
        raise AssertionError(directory)

    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.raises(TrainingError, match=r"step 3 can't be written to .*No such file"):
        keep(
            tmp_path / "disk",
            fill=gone,
            step=3,
            total=9,
            identity="a" * 64,
            surroundings=HERE,
        )
    assert not (tmp_path / "disk").exists()


def test_what_a_kill_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, 2)
    monkeypatch.setattr(checkpoints, "_seal", _die)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, 3)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


def test_surroundings_that_differ_are_named_on_both_sides(tmp_path: Path) -> None:
    found = read(kept(tmp_path, 3))
    assert found is not None
    require_same(found, HERE, inexact=False)
    here = {"device": "a processor", "threads": 4, "numpy": "2.4"}
    assert difference(HERE, here) == {
        "numpy": ["none", "2.4"],
        "threads": ["2", "4"],
        "torch": ["2.13.0", "none"],
    }
    require_same(found, here, inexact=True)
    message = (
        "the checkpoint of step 3 was made with numpy none, threads 2, torch 2.13.0, and this "
        "process has numpy 2.4, threads 4, torch none: going on would end with other bytes. Run it "
        "where it began, or set runtime.resume: inexact"
    )
    with pytest.raises(TrainingError) as refused:
        require_same(found, here, inexact=False)
    assert str(refused.value) == message
