"""Ask one teacher about one shard of the training examples."""

from __future__ import annotations

from urllib.parse import urlsplit

from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.teachers.prompts import identity
from tasks.action import Action, Input
from tasks.model import Model

_SITE = {"api_base", "api_key_env"}


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
        # A teacher's calibration belongs to the tally: changing it asks nobody again.
        "teacher": teacher.model_dump(mode="json", exclude={*_SITE, "calibration"}),
        "api_host": urlsplit(teacher.api_base).netloc.rpartition("@")[2],
        "role_play": recipe.voting.role_play,
        "target": target,
        "start": start,
        "stop": stop,
        **identity(),
    }
    inputs = {"examples": examples}
    if model is not None:
        settings = recipe.model.model_dump(include={"dtype", "attention", "chat_template"})
        config |= {"model": settings, "served_model": model.name}
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
