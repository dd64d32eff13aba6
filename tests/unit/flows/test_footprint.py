"""What a run took, out of records and vote logs; and the command that makes it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifacts import Store
from flows.command import run_command, sweep_command
from flows.footprint import footprint
from lorapar_core.parquet import write_table
from lorapar_core.recipe import parse_assignments
from lorapar_core.teachers.tables import ATTEMPTS
from tasks.action import Outcome

MACHINE = {
    "processor": "P",
    "cpus": 2,
    "host": "secret-host",
    "libraries": {"torch": "2", "x": "1"},
}


def stored(
    store: Store, key: str, name: str, *, config: dict[str, Any] | None = None, **provenance: Any
) -> Outcome:
    """A record of made-up provenance, with whatever lies in the key's scratch."""
    out = store.scratch(key * 64) / "out"
    out.mkdir(exist_ok=True)
    (out / "file.json").write_text("{}")
    record = store.publish(
        out,
        key=key * 64,
        stage=name.partition("[")[0],
        name=name,
        version=1,
        config=config or {},
        inputs={},
        provenance=provenance,
    )
    return Outcome(name, record.stage, record.key, "cached", 0.0, record.outputs)


def log(store: Store, key: str, **columns: list[Any]) -> None:
    """A vote log that `stored` will publish."""
    out = store.scratch(key * 64) / "out"
    out.mkdir()
    count = len(columns["outcome"])
    rows = {name: columns.get(name, [None] * count) for name in ATTEMPTS.names}
    write_table(out / "vote_log.parquet", rows, ATTEMPTS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_a_stage_is_told_with_what_its_record_says(store: Store) -> None:
    told = {"peak_bytes": 7, "active_elements": 3, "elements": 9, "gpu": "G"}
    sft = stored(
        store, "a", "sft", seconds=12.5, commit="c1", footprint=told, resumed=[{}, {}], **MACHINE
    )
    old = stored(store, "b", "prepare", seconds=1.0, commit="c1")
    taken = footprint([old, sft], store=store)
    first, second = taken["stages"]
    assert first == {"name": "prepare", "action": "cached", "seconds": 1.0, "went_on": 0}
    assert second == {
        "name": "sft",
        "action": "cached",
        "seconds": 12.5,
        "went_on": 2,
        "peak_bytes": 7,
        "active_elements": 3,
        "elements": 9,
    }
    assert taken["commits"] == ["c1"]
    assert taken["artifacts"] == {
        "prepare/file.json": old.outputs["file.json"].digest,
        "sft/file.json": sft.outputs["file.json"].digest,
    }
    assert taken["machines"][-1] == {
        "gpu": "G",
        "processor": "P",
        "cpus": 2,
        "libraries": {"torch": "2"},
    }
    assert "secret-host" not in str(taken)


def test_a_teachers_requests_are_summed_over_its_rounds(store: Store) -> None:
    mini = {"teacher": {"name": "mini", "provider": "litellm"}}
    log(store, "a", outcome=["vote", "off_schema"], prompt_tokens=[10, 20], cost_usd=[0.5, None])
    log(store, "b", outcome=["vote"], prompt_tokens=[30], completion_tokens=[4], cost_usd=[0.25])
    log(store, "c", outcome=[])
    log(store, "d", outcome=["vote"], prompt_tokens=[5])
    outcomes = [
        stored(store, "a", "vote[mini]", config=mini),
        stored(store, "b", "vote[mini/2]", config=mini),
        stored(store, "c", "vote[held]", config={"teacher": {**mini["teacher"], "name": "held"}}),
        stored(store, "d", "vote[local]", config={"teacher": {"name": "l", "provider": "local"}}),
    ]
    (row,) = footprint(outcomes, store=store)["votes"]
    assert row == {
        "teacher": "mini",
        "votes": 2,
        "requests": 3,
        "prompt_tokens": 60,
        "completion_tokens": 4,
        "usd": 0.75,
        "unpriced": 1,
    }


def test_a_stage_that_nobody_has_computed_is_left_out(store: Store) -> None:
    missing = Outcome("sft", "sft", None, "missing", 0.0, {})
    gone = Outcome("sft", "sft", "d" * 64, "cached", 0.0, {})
    assert footprint([missing, gone], store=store)["stages"] == []


names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
)
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3), max_leaves=5
)


@example({"model": {"chat_template": "one\ntwo\r\n 'three' \u2028 {{ four }}\n"}})
@given(st.dictionaries(names, st.dictionaries(names, values, min_size=1, max_size=3), max_size=3))
def test_a_command_read_back_says_the_same(overrides: dict[str, Any]) -> None:
    if "://" in str(overrides):
        return
    command = run_command("my recipe.yaml", overrides)
    assert len(command.splitlines()) == 1
    words = shlex.split(command)
    assert words[:3] == ["lorapar", "run", "my recipe.yaml"]
    assert set(words[3::2]) <= {"--set"}
    assert parse_assignments(words[4::2]) == overrides


def test_a_sweeps_command_names_its_seeds_and_points() -> None:
    sections = {"data": {"examples": 9}}
    command = sweep_command("labels", "lab", sections, seeds=(3, 4), only=["3 teachers"])
    assert command == (
        "lorapar sweep labels lab --seeds 3,4 --point '3 teachers' --set data.examples=9"
    )


def test_a_whole_list_is_one_assignment() -> None:
    teachers = [{"name": "one", "provider": "local"}, {"name": "two: 'q'", "temperature": None}]
    words = shlex.split(run_command("demo", {"teachers": teachers, "stages": []}))
    assert parse_assignments(words[4::2]) == {"teachers": teachers, "stages": []}


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hush@host/data.jsonl?token=hush",
        "s3://hush@bucket/x",
        "https://h/x?key=hush#a",
    ],
)
def test_no_secret_of_an_address_is_told(address: str) -> None:
    command = run_command("demo", {"data": {"source": address}, "teachers": [{"model": address}]})
    assert "hush" not in command
    assert command.count("***") >= 2
