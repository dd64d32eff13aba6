"""One JSON text for one value, so that its sha256 can serve as an identity.

Keys are sorted by code point, there is no white space, text is UTF-8, and a float is written with
the fewest digits that give it back (``1.0`` and ``1`` are two values with two texts). What has no
single text is refused instead of guessed at: NaN and infinities, keys that are not strings, and
every type that JSON lacks. Subclasses are refused as well, because an enum or a numpy scalar would
be written as something else than what the reader sees in the config.
"""

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

MAX_DEPTH = 100
"""Deeper values are refused; a list that holds itself would otherwise never end."""


def canonical_json(value: object) -> bytes:
    """Encode `value` as its one canonical JSON text.

    Raises:
        TypeError: a key that is not a string, or a type other than bool, int, float, str, None,
            list, tuple and dict; the message gives the path of the value, such as ``$.sft.lr``.
        ValueError: NaN, an infinity, text that UTF-8 cannot hold, or more than 100 levels.
    """
    _refuse_ambiguous(value, "$", 0)
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def action_key(
    *, stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Return the identity of an action: sha256 (hex) of the canonical JSON of its four parts.

    `inputs` maps a role to the digest of its content. Nothing that says where, when or by whom the
    action is run belongs in here: that would turn a hit into a miss.

    Raises:
        TypeError, ValueError: as `canonical_json`, or an input that is not a string, or a
            version that is not an int.
    """
    if type(version) is not int:
        raise TypeError(f"version of stage {stage!r} must be an int, not {version!r}")
    for role, digest in inputs.items():
        if type(digest) is not str:
            raise TypeError(f"input {role!r} of stage {stage!r} must be a digest, not {digest!r}")
    identity = {
        "stage": stage,
        "version": version,
        "config": dict(config),
        "inputs": dict(inputs),
    }
    return sha256(canonical_json(identity)).hexdigest()


def _refuse_ambiguous(value: object, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path[:80]}...: nested deeper than {MAX_DEPTH} levels, or a cycle")
    if isinstance(value, dict) and type(value) is dict:
        for key, member in value.items():
            _refuse_key(key, path)
            _refuse_ambiguous(member, f"{path}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        for index, member in enumerate(value):
            _refuse_ambiguous(member, f"{path}[{index}]", depth + 1)
    else:
        _refuse_scalar(value, path)


def _refuse_key(key: object, path: str) -> None:
    if type(key) is not str:
        raise TypeError(f"{path}: key {key!r} is a {type(key).__name__}; JSON keys are strings")
    _refuse_surrogate(key, path)


def _refuse_scalar(value: object, path: str) -> None:
    if isinstance(value, str) and type(value) is str:
        _refuse_surrogate(value, path)
    elif isinstance(value, float) and type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{path}: {value} is not finite; JSON has no text for it")
    elif value is not None and type(value) not in (bool, int):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"{path}: {value!r} is a {kind}; expected bool, int, float, str, None, list or dict"
        )


def _refuse_surrogate(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: {text!r} holds a lone surrogate, not UTF-8 text") from error
