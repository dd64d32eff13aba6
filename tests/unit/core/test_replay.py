"""Votes out of a file: as many columns as two, and nothing that isn't a vote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_inputs import run_stage

from flows.voting import voter_of
from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.errors import VoteError
from lorapar_core.parquet import read_table, write_table
from lorapar_core.prepare import EXAMPLES
from lorapar_core.teachers.ballot import Ballot, Question, ids_digest
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.replay import ReplayTeacher
from lorapar_core.teachers.tables import VOTES, write_votes
from tasks.action import External
from tasks.vote import vote


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.opened(tmp_path / "ledger") as opened:
        yield opened


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def replay(path: Path, ledger: Ledger, *ids: str) -> dict[str, Ballot]:
    late = ReplayTeacher(path, name="old").vote([Question(i, "?", "!") for i in ids], ledger)
    assert late == {}
    return dict(ledger.votes)


def test_two_columns_are_enough(tmp_path: Path, ledger: Ledger) -> None:
    path = write(tmp_path / "v.parquet", example_id=["a", "b", "c"], label=[1, 2, None])
    votes = replay(path, ledger, "c", "a")
    assert votes == {
        "a": Ballot("a", 1, "", ""),
        "c": Ballot("c", None, "", "", "not_told"),
    }


def test_our_own_table_is_replayed_whole(tmp_path: Path, ledger: Ledger) -> None:
    ballots = [
        Ballot("a", 2, "System 2", "served-7", logprob_1=-2.0, logprob_2=-0.25),
        Ballot("b", None, "", "", "deadline"),
    ]
    write_votes(tmp_path, ballots, [], teacher="far", asked="0")
    assert list(replay(tmp_path / "votes.parquet", ledger, "a", "b").values()) == ballots


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"example_id": ["a", "a"], "label": [1, 1]}, "row 2 of .* is a second vote on a"),
        ({"example_id": ["a"], "label": [3]}, "its label 3 is not 1, 2 or null"),
        ({"example_id": ["a"], "label": [0]}, "its label 0 is not 1, 2 or null"),
        ({"example_id": ["a"], "label": ["1"]}, "its label '1' is not 1, 2 or null"),
        ({"example_id": ["a"], "label": [1.5]}, "its label 1.5 is not 1, 2 or null"),
        ({"example_id": ["b"], "label": [1]}, r"'old' has no vote on 1 of 1 examples \(such as a"),
        ({"id": ["a"], "label": [1]}, "can't be read as votes .*example_id"),
        ({"example_id": ["a"]}, "can't be read as votes .*label"),
    ],
)
def test_a_file_that_holds_no_such_votes_is_refused(
    tmp_path: Path, ledger: Ledger, columns: dict[str, list[Any]], message: str
) -> None:
    path = write(tmp_path / "v.parquet", **columns)
    with pytest.raises(VoteError, match=message):
        replay(path, ledger, "a")
    assert ledger.votes == {}


@pytest.mark.parametrize("content", [None, b"", b"example_id,label\na,1\n"])
def test_what_is_no_parquet_file_is_refused(
    tmp_path: Path, ledger: Ledger, content: bytes | None
) -> None:
    path = tmp_path / "v.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VoteError, match="can't be read as votes"):
        replay(path, ledger, "a")


def test_the_stage_replays_what_the_action_names(tmp_path: Path) -> None:
    """The path is needed to run, and is in no key; the file's content is in it. A column of labels
    with a gap is one of floats to pandas."""
    ids = ["a", "b", "c"]
    same = dict.fromkeys(("prompt", "answer", "reference", "source", "split"), ids)
    write_table(tmp_path / "examples.parquet", {"id": ids, **same}, EXAMPLES)
    path = write(tmp_path / "v.parquet", example_id=["c", "b", "a"], label=[1.0, 2.0, None])
    old = TeacherConfig(name="old", provider="replay", model=str(path))
    voter = voter_of(old, None)
    assert isinstance(voter.replayed, External)
    action = vote(
        Recipe(teachers=[old]),
        old,
        name="old",
        examples=External("0" * 64, tmp_path / "examples.parquet"),
        ids=["b", "c"],
        ids_digest=ids_digest(["b", "c"]),
        units=2,
        model=None,
        replayed=voter.replayed,
        target="somebody",
    )
    assert action.inputs["votes"].digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (action.units, action.ledger) == (0, ""), "nothing is bought, and nothing kept for good"
    assert str(path) not in str(action.config)
    inputs = {"examples": tmp_path / "examples.parquet", "votes": path}
    out = run_stage("vote", action.config, inputs, tmp_path / "out", site=action.site)
    votes = read_table(out / "votes.parquet")
    assert votes["example_id"] == ["b", "c"]
    assert votes["label"] == [2, 1]
    assert read_table(out / "vote_log.parquet")["example_id"] == []
    with pytest.raises(VoteError, match="ids to vote on are not those"):
        run_stage(
            "vote",
            action.config,
            inputs,
            tmp_path / "other",
            site={**action.site, "ids": ["c", "b"]},
        )


def test_a_file_that_was_written_anew_since_it_was_hashed_is_refused(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Its votes would stand under the key of others."""
    path = write(tmp_path / "v.parquet", example_id=["a"], label=[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    teacher = ReplayTeacher(path, name="old", digest=digest)
    assert teacher.vote([Question("a", "?", "!")], ledger) == {}
    assert ledger.votes["a"].label == 1
    write(path, example_id=["a", "b"], label=[2, 2])
    with pytest.raises(VoteError, match=r"v\.parquet was changed while the run read it; run again"):
        teacher.vote([Question("b", "?", "!")], ledger)
    assert set(ledger.votes) == {"a"}, "nothing of it is kept"
    path.unlink()
    with pytest.raises(VoteError, match="can't be read as votes"):
        teacher.vote([Question("b", "?", "!")], ledger)


def replay_stage(tmp_path: Path, path: Path, ids: list[str], **more: Any) -> dict[str, list[Any]]:
    """The table that the stage writes of these examples."""
    write_table(tmp_path / "examples.parquet", dict.fromkeys(EXAMPLES.names, ids), EXAMPLES)
    config = {
        "teacher": {"name": "old", "provider": "replay"},
        "role_play": True,
        "target": "t",
        "asked": "0",
        "ids": ids_digest(ids),
    }
    inputs = {"examples": tmp_path / "examples.parquet", "votes": path}
    site = {"model": str(path), "ids": ids, "purse": None}
    out = run_stage("vote", config, inputs, tmp_path / "out", site=site, **more)
    return read_table(out / "votes.parquet")


def test_the_stage_looks_at_the_files_digest_again(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", example_id=["a"], label=[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write(path, example_id=["a"], label=[2])
    with pytest.raises(VoteError, match="was changed while the run read it"):
        replay_stage(tmp_path, path, ["a"], digests={"votes": digest})
    assert not (tmp_path / "out" / "votes.parquet").exists()


def test_the_stage_warns_of_votes_that_ended_at_their_deadline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ["a", "b", "c", "d"]
    reasons = ["deadline", None, "refused", "deadline"]
    path = write(
        tmp_path / "v.parquet", example_id=ids, label=[None, 1, None, None], abstained=reasons
    )
    votes = replay_stage(tmp_path, path, ids)
    assert votes["abstained"] == reasons
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "2 of 4 votes of teacher 'old' ended at the deadline and count as abstentions; "
        "voting.again: 1 asks for them again"
    ]


def test_no_vote_at_its_deadline_is_no_warning_and_unread_replies_are_read_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = ["a", "b", "c", "d"]
    path = write(
        tmp_path / "v.parquet",
        example_id=ids,
        label=[None, None, None, 1],
        reply=["**System 2**", "who knows", "System 1", "System 2"],
        abstained=["off_schema", "off_schema", "refused", None],
    )
    votes = replay_stage(tmp_path, path, ids)
    assert votes["label"] == [2, None, None, 1], "what was a label stays that one"
    assert votes["abstained"] == [None, "off_schema", "refused", None]
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_an_id_that_is_no_example_is_refused(tmp_path: Path) -> None:
    columns = {name: ["a"] for name in EXAMPLES.names}
    write_table(tmp_path / "examples.parquet", columns, EXAMPLES)
    path = write(tmp_path / "v.parquet", example_id=["a", "z"], label=[1, 2])
    config = {
        "teacher": {"name": "old", "provider": "replay"},
        "role_play": True,
        "target": "t",
        "asked": "0",
        "ids": ids_digest(["a", "z"]),
    }
    inputs = {"examples": tmp_path / "examples.parquet", "votes": path}
    site = {"model": str(path), "ids": ["a", "z"], "purse": None}
    with pytest.raises(VoteError, match="1 ids, such as z, are not among the examples"):
        run_stage("vote", config, inputs, tmp_path / "out", site=site)


def test_the_table_keeps_order_names_the_asking_and_tells_why_there_is_no_label(
    tmp_path: Path,
) -> None:
    yes = Ballot("b", 1, "1", "served", logprob_1=-0.5, logprob_2=-1.5)
    no = Ballot("a", None, "no idea", "served", "off_schema")
    for asked in ("x", "y"):
        out = tmp_path / asked
        out.mkdir()
        write_votes(out, [yes, no], [], teacher="t", asked=asked)
    table, other = (read_table(tmp_path / asked / "votes.parquet") for asked in ("x", "y"))
    assert list(table) == VOTES.names
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    told = {"example_id": "b", "teacher": "t", "label": 1, "abstained": None, "reply": "1"}
    assert rows[0].items() >= told.items()
    assert (rows[0]["logprob_1"], rows[0]["logprob_2"]) == (-0.5, -1.5)
    assert (rows[1]["label"], rows[1]["abstained"]) == (None, "off_schema")
    assert rows[1]["reply"] == "no idea"
    keys = [*table["key"], *other["key"]]
    assert len(set(keys)) == 4, "the vote's own key: how it was asked, and of which example"
