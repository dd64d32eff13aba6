"""Ask one teacher about one shard of the training examples."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.teachers.prompts import identity
from tasks.action import Action, Input
from tasks.model import Model, settings

_SITE = {"api_base", "api_key_env"}


def api_host(teacher: TeacherConfig) -> str:
    """Host and port that a teacher is asked at, without user and password; empty if usual."""
    return urlsplit(teacher.api_base).netloc.rpartition("@")[2]


def _identity(teacher: TeacherConfig) -> dict[str, Any]:
    """What decides a vote. Calibration belongs to the tally: changing it asks nobody again.

    A local teacher's model may be a path: `served_model` and the input name it instead.
    """
    located = {"model", "revision"} if teacher.provider == "local" else set()
    return teacher.model_dump(mode="json", exclude={*_SITE, "calibration", *located})


def vote(
    recipe: Recipe,
    teacher: TeacherConfig,
    *,
    examples: Input,
    model: Model | None,
    target: str,
    start: int,
    stop: int,
) -> Action:
    """`model` is a local teacher's own; `target` names the model that teachers play."""
    config = {
        "teacher": _identity(teacher),
        "api_host": api_host(teacher),
        "role_play": recipe.voting.role_play,
        "target": target,
        "start": start,
        "stop": stop,
        **identity(),
    }
    inputs = {"examples": examples}
    if model is not None:
        held = {**settings(recipe.model), "chat_template": recipe.model.chat_template}
        config |= {"model": held, "served_model": model.identity}
        inputs["teacher"] = model.base
    return Action(
        "vote",
        f"vote[{teacher.name}/{start // recipe.voting.shard_size}]",
        config=config,
        inputs=inputs,
        site=teacher.model_dump(include=_SITE),
        place="device" if teacher.provider == "local" else "network",
        units=stop - start,
    )
