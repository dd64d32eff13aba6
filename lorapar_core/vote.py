"""Stage `vote`: one teacher's votes on some of the training examples.

config: teacher, api_host, role_play, target, prompts, asked (the digest of all that: how is asked),
ids (the digest of whom about), again, and for a local teacher model and served_model. site: the
teacher's fields that are no part of its identity, the ids themselves, and the run's purse. Inputs:
examples, and for a local teacher its base, for a replay its votes.
Writes `votes.parquet` (a row an example, in the order of the ids; a local teacher adds one for the
content-free example) and `vote_log.parquet` (every request: tokens, cost, seconds; no key reads
it).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorapar_core.config import ModelConfig, TeacherConfig
from lorapar_core.errors import VoteError
from lorapar_core.parquet import read_table
from lorapar_core.process import device, reset_torch
from lorapar_core.spec import Spec
from lorapar_core.teachers.ballot import (
    CONTENT_FREE_ID,
    LATE,
    OFF_SCHEMA,
    Ballot,
    Question,
    ids_digest,
)
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.prompts import CONTENT_FREE, vote_prompt
from lorapar_core.teachers.replies import Form, parse_reply
from lorapar_core.teachers.tables import write_votes
from lorapar_core.teachers.teacher import Render, Teacher

_LOG = logging.getLogger(__name__)
_OURS = ("ids", "purse")
"""Of `site`: what is no field of the teacher."""


def run(spec: Spec, out: Path) -> None:
    site = {name: value for name, value in spec.site.items() if name not in _OURS}
    config = TeacherConfig.model_validate({**spec.config["teacher"], **site})
    questions = _questions(spec, config)
    ids = [question.example_id for question in questions]
    with Ledger.opened(spec.ledger or spec.scratch / "votes.ledger") as ledger:
        missing = [q for q in questions if q.example_id not in ledger.votes]
        late = _teacher(spec, config).vote(missing, ledger) if missing else {}
        ballots = [
            late.get(example_id) or read_anew(ledger.votes[example_id]) for example_id in ids
        ]
        attempts = ledger.entries.attempts_on(set(ids))
    overdue = sum(ballot.abstained == LATE for ballot in ballots)
    if overdue:
        _LOG.warning(
            "%d of %d votes of teacher %r ended at the deadline and count as abstentions; "
            "voting.again: 1 asks for them again",
            overdue,
            len(ids),
            config.name,
        )
    write_votes(out, ballots, attempts, teacher=config.name, asked=spec.config["asked"])


def read_anew(ballot: Ballot) -> Ballot:
    """A reply that was no label when it came may be one to a parser that has been mended."""
    label = parse_reply(ballot.reply) if ballot.abstained == OFF_SCHEMA else None
    return replace(ballot, label=label, abstained="") if label else ballot


def _questions(spec: Spec, teacher: TeacherConfig) -> list[Question]:
    """The examples to ask about, for a local teacher the content-free one last.

    Raises:
        VoteError: the ids aren't those of the config, or one isn't among the examples.
    """
    ids: Sequence[str] = spec.site["ids"]
    if ids_digest(ids) != spec.config["ids"]:
        raise VoteError("the ids to vote on are not those that the config's digest names")
    table = read_table(spec.inputs["examples"], ["id", "prompt", "answer"])
    known = {row[0]: Question(*row) for row in zip(*table.values(), strict=True)}
    absent = [example_id for example_id in ids if example_id not in known]
    if absent:
        raise VoteError(f"{len(absent)} ids, such as {absent[0]}, are not among the examples")
    questions = [known[example_id] for example_id in ids]
    if teacher.provider == "local":
        questions.append(Question(CONTENT_FREE_ID, CONTENT_FREE["prompt"], CONTENT_FREE["answer"]))
    return questions


def _teacher(spec: Spec, config: TeacherConfig) -> Teacher:
    render = rendering(config, target=spec.config["target"], role_play=spec.config["role_play"])
    if config.provider == "local":
        return _local(spec, render)
    if config.provider == "replay":
        from lorapar_core.teachers.replay import ReplayTeacher

        return ReplayTeacher(
            spec.inputs["votes"], name=config.name, digest=spec.digests.get("votes")
        )
    if config.script is not None:
        from lorapar_core.teachers.scripted import ScriptedTeacher

        return ScriptedTeacher(config.name, config.script, role_play=bool(spec.config["role_play"]))
    from lorapar_core.teachers.purse import Purse
    from lorapar_core.teachers.remote import RemoteTeacher

    purse = Purse(Path(spec.site["purse"])) if spec.site.get("purse") else None
    return RemoteTeacher(config, spec.runtime, render=render, purse=purse)


def rendering(teacher: TeacherConfig, *, target: str, role_play: bool) -> Render:
    """How this teacher is asked."""

    def render(question: Question, form: Form) -> str:
        return vote_prompt(
            example_id=question.example_id,
            prompt=question.prompt,
            answer=question.answer,
            target=target,
            wording=teacher.wording,
            role_play=role_play,
            form=form,
        )

    return render


def _local(spec: Spec, render: Render) -> Teacher:
    from lorapar_core.teachers.local import LocalTeacher

    reset_torch(spec.runtime)
    model = ModelConfig.model_validate(spec.config["model"])
    return LocalTeacher(
        spec.inputs["teacher"],
        render=render,
        label=spec.config["served_model"],
        dtype=model.dtype,
        attention=model.attention,
        quantization=model.quantization,
        device=device(spec.runtime),
        template=model.chat_template,
    )
