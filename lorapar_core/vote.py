"""Stage `vote`: one teacher's votes on one shard of the training examples.

config: teacher, api_host, role_play, target, start, stop, prompts, and for a local teacher model
and served_model. site: the teacher's api_base and api_key_env, which are no part of its identity.
Writes `votes.parquet` (a row an example, in example order; a local teacher adds one for the
content-free example) and `vote_log.parquet` (tokens, cost, seconds, attempts; no key reads it).
"""

from __future__ import annotations

from pathlib import Path

from lorapar_core.config import ModelConfig, TeacherConfig
from lorapar_core.parquet import read_table
from lorapar_core.process import device, reset_torch
from lorapar_core.spec import Spec
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Ballot, write_ballots
from lorapar_core.teachers.prompts import CONTENT_FREE, vote_prompt


def run(spec: Spec, out: Path) -> None:
    teacher = TeacherConfig.model_validate({**spec.config["teacher"], **spec.site})
    questions = _questions(spec, teacher)
    if teacher.provider == "local":
        ballots = _local(spec, questions)
    else:
        from lorapar_core.teachers.remote import RemoteTeacher

        log = spec.scratch / "votes.jsonl"
        ballots = RemoteTeacher(teacher, spec.runtime, log=log).vote(questions)
    write_ballots(out, ballots, teacher=teacher.name)


def _questions(spec: Spec, teacher: TeacherConfig) -> list[tuple[str, str]]:
    """(example id, user message) of the shard, the content-free example last."""
    table = read_table(spec.inputs["examples"], ["id", "prompt", "answer"])
    shard = slice(spec.config["start"], spec.config["stop"])
    rows = list(zip(table["id"], table["prompt"], table["answer"], strict=True))[shard]
    if teacher.provider == "local":
        rows.append((CONTENT_FREE_ID, CONTENT_FREE["prompt"], CONTENT_FREE["answer"]))
    return [
        (
            example_id,
            vote_prompt(
                example_id=example_id,
                prompt=prompt,
                answer=answer,
                target=spec.config["target"],
                wording=teacher.wording,
                role_play=spec.config["role_play"],
            ),
        )
        for example_id, prompt, answer in rows
    ]


def _local(spec: Spec, questions: list[tuple[str, str]]) -> list[Ballot]:
    from lorapar_core.teachers.local import LocalTeacher

    reset_torch(spec.runtime)
    model = ModelConfig.model_validate(spec.config["model"])
    teacher = LocalTeacher(
        spec.inputs["teacher"],
        label=spec.config["served_model"],
        dtype=model.dtype,
        attention=model.attention,
        quantization=model.quantization,
        device=device(spec.runtime),
        template=model.chat_template,
    )
    return teacher.vote(questions)
