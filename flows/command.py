"""The command that makes a run, or a sweep, again."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_BREAK = re.compile(r"[\n\r\x85\u2028\u2029]")
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(://[^\s?]*)\?\S*")


def run_command(recipe: str, overrides: Mapping[str, Any]) -> str:
    """`lorapar run RECIPE --set SECTION.FIELD=VALUE …`, to be pasted into a shell.

    Of an address only scheme, host and path are told: passwords and tokens stand in the rest.
    """
    return shlex.join(["lorapar", "run", recipe, *_assignments(overrides)])


def sweep_command(
    sweep: str,
    recipe: str,
    overrides: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    only: Sequence[str],
) -> str:
    """`lorapar sweep SWEEP RECIPE --seeds … --point … --set …`, likewise."""
    words = ["lorapar", "sweep", sweep, recipe, "--seeds", ",".join(map(str, seeds))]
    for label in only:
        words += ["--point", label]
    return shlex.join([*words, *_assignments(overrides)])


def _assignments(overrides: Mapping[str, Any]) -> list[str]:
    words = []
    for section, value in overrides.items():
        if isinstance(value, Mapping) and value:
            assignments = [(f"{section}.{field}", inner) for field, inner in value.items()]
        else:
            assignments = [(section, value)]
        for target, assigned in assignments:
            words += ["--set", f"{target}={_text(assigned)}"]
    return words


def _text(value: Any) -> str:
    """As YAML, on one line."""
    text = yaml.dump(
        value, Dumper=_OneLine, default_flow_style=True, width=math.inf, allow_unicode=True
    )
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text.removesuffix("...\n").strip()))


class _OneLine(yaml.SafeDumper):
    """Escapes the line breaks of a text, which YAML else writes as such."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _BREAK.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLine.add_representer(str, _represent)
