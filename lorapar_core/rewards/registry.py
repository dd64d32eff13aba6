"""Which function a name in `grpo.rewards` stands for.

A user's own is named by import path, and that path is all of its identity: a change of its code
changes no key, and what is cached stays. To have it computed anew, give the function another name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial

from lorapar_core.answers import HASH, AnswerFormat
from lorapar_core.config import Sandbox
from lorapar_core.errors import ConfigError
from lorapar_core.rewards.code import code, execution
from lorapar_core.rewards.free_form import free_form
from lorapar_core.rewards.paper import correctness, integer, loose_format, strict_format, tag_credit

Reward = Callable[[str, str, AnswerFormat], float]
"""(completion, reference, format) -> reward."""

REWARDS: dict[str, Reward] = {
    "correctness": correctness,
    "integer": integer,
    "strict_format": strict_format,
    "loose_format": loose_format,
    "tag_credit": tag_credit,
    "free_form": free_form,
    "code": code,
    "execution": execution,
}


def reward_named(name: str, *, sandbox: Sandbox) -> Reward:
    """The reward called `name`, or the function at that import path.

    `sandbox` is how those that run code do so.

    Raises:
        ConfigError: it can't be imported, or can't be called as a reward is.
    """
    if ":" in name:
        return imported(name)
    reward: Callable[..., float] = REWARDS[name]
    takes_sandbox = "sandbox" in inspect.signature(reward).parameters
    return partial(reward, sandbox=sandbox) if takes_sandbox else reward


def imported(path: str) -> Reward:
    """The function at `package.module:function`.

    Raises:
        ConfigError: it can't be imported, or can't be called as a reward is.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"reward {path} can't be imported ({reason}); install its module, or put its folder in "
            "PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"reward {path} is {type(found).__name__}, expected a function")
    _require_signature(path, found)
    function: Reward = found
    return function


def _require_signature(path: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
        signature.bind("completion", "reference", HASH)
    except (TypeError, ValueError) as error:  # ValueError: a function without one, in C
        raise ConfigError(
            f"reward {path} can't be called with (completion, reference, format): {error}"
        ) from error
