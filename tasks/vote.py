"""Ask one teacher about some of the training examples."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from artifacts import canonical_json
from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.teachers.prompts import identity
from tasks.action import Action, Input
from tasks.model import Model, settings

SITE = {
    "api_base",
    "api_key_env",
    "header_envs",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
    "input_usd",
    "output_usd",
}
"""A teacher's fields that decide no vote: where it is, what it costs, how fast it may be asked."""
LOCAL_VERSION = 1
"""Of how a local teacher's log-probabilities are computed: raised by hand when they change. (A
remote teacher's votes are kept as replies, and those that were no labels are read anew.)"""
_PLACE = {"model", "revision"}
"""What a teacher that isn't litellm's is: perhaps a path."""


def api_host(teacher: TeacherConfig) -> str:
    """Host and port that a teacher is asked at; empty if usual."""
    return urlsplit(teacher.api_base).netloc


def asked(
    recipe: Recipe, teacher: TeacherConfig, *, model: Model | None, target: str
) -> dict[str, Any]:
    """All that decides a teacher's vote but the example; `asked` is its digest.

    Calibration belongs to the tally: changing it asks nobody again. What a local teacher or a
    replay is may be a path: `served_model`, or the votes' digest, names it instead.
    """
    located = set() if teacher.provider == "litellm" else _PLACE
    told = teacher.model_dump(mode="json", exclude={*SITE, "calibration", *located})
    if teacher.provider == "replay":
        told["model"] = "votes"  # the role of the input that it is
    if teacher.provider != "scripted":
        del told["script"]  # not there, and absent from the keys of votes bought before it was
    config: dict[str, Any] = {
        "teacher": told,
        "api_host": api_host(teacher),
        "role_play": recipe.voting.role_play,
        "target": target if recipe.voting.role_play else "",
        **identity(wording=teacher.wording, role_play=recipe.voting.role_play, reply=teacher.reply),
    }
    if model is not None:
        config["scoring"] = LOCAL_VERSION
        held = {**settings(recipe.model), "chat_template": recipe.model.chat_template}
        config |= {"model": held, "served_model": model.identity}
    return {**config, "asked": sha256(canonical_json(config)).hexdigest()}


def vote(
    recipe: Recipe,
    teacher: TeacherConfig,
    *,
    name: str,
    examples: Input,
    ids: Sequence[str],
    ids_digest: str,
    units: int,
    model: Model | None,
    replayed: Input | None,
    target: str,
) -> Action:
    """`model` is a local teacher's own, `replayed` a replay's file; `target` names the model that
    teachers play. The ids name their examples' content, so the table they stand in is in no key."""
    how = asked(recipe, teacher, model=model, target=target)
    inputs: dict[str, Input] = {}
    if model is not None:
        inputs["teacher"] = model.base
    if replayed is not None:
        inputs["votes"] = replayed
    is_free = teacher.provider in ("replay", "scripted")
    return Action(
        "vote",
        f"vote[{name}]",
        config={**how, "ids": ids_digest, "again": recipe.voting.again},
        inputs=inputs,
        reads={"examples": examples},
        site={
            **teacher.model_dump(include=SITE | _PLACE),
            "ids": list(ids),
        },
        ledger="" if is_free else how["asked"],
        place="device" if teacher.provider == "local" else "network",
        units=0 if is_free else units,
    )
