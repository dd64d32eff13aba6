"""Secrets are crossed out of what is told: as they are, in JSON, and in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.config import TeacherConfig
from lorapar_core.secrets import (
    CROSSED_OUT,
    SHORTEST,
    SHORTEST_WORD,
    crossing_out,
    secrets_of,
)

KEY = "sk-very-secret-0123456789"


def teacher(**fields: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"name": "far", "model": "openai/x", **fields})


def found(environment: Mapping[str, str], **fields: Any) -> list[str]:
    return secrets_of([teacher(**fields)], environment)


# What is a secret.


def test_they_are_the_keys_and_header_values_of_all_teachers_and_nothing_else() -> None:
    teachers = [
        teacher(api_key_env="ONE"),
        teacher(header_envs={"X-A": "TWO", "X-B": "THREE"}),
        teacher(),
        teacher(api_key_env="ONE"),
    ]
    environment = {
        "ONE": "first-secret",
        "TWO": "second-secret",
        "THREE": "third-secret",
        "OTHER": "other-secret",
        "HOME": "/home/somebody",
    }
    assert secrets_of(teachers, environment) == ["second-secret", "first-secret", "third-secret"]


@pytest.mark.parametrize("environment", [{}, {"KEY": ""}, {"OTHER": KEY}])
def test_what_is_not_set_is_no_secret(environment: dict[str, str]) -> None:
    assert found(environment, api_key_env="KEY") == []
    assert crossing_out([])("all of it stays, '' and spaces too") == (
        "all of it stays, '' and spaces too"
    )


def test_the_words_of_a_headers_value_are_secrets_of_their_own() -> None:
    value = f"Bearer {KEY}"
    secrets = found({"HEADER": value}, header_envs={"Authorization": "HEADER"})
    assert secrets == [value, KEY]
    cross_out = crossing_out(secrets)
    assert cross_out(f"you sent {value}") == f"you sent {CROSSED_OUT}"
    assert cross_out(f"your token {KEY} is bad") == f"your token {CROSSED_OUT} is bad"
    assert cross_out("use Bearer") == "use Bearer"


def test_words_are_parted_by_any_white_space() -> None:
    secrets = found({"HEADER": "first-word\tsecond-word\nlast"}, header_envs={"X": "HEADER"})
    assert secrets == ["first-word\tsecond-word\nlast", "second-word", "first-word"]


def test_short_values_and_words_are_left() -> None:
    """Servers of one's own take any key, such as 1, and it would cross out a label."""
    for length in range(20):
        value = "k" * length
        assert found({"KEY": value}, api_key_env="KEY") == [value] * (length >= SHORTEST)
        spaced = f"a {value} b"
        words = [value] * (length >= SHORTEST_WORD)
        expected = [spaced] * (len(spaced) >= SHORTEST) + words
        assert found({"KEY": spaced}, api_key_env="KEY") == expected
    assert (len("secret"), len("Bearer..")) == (SHORTEST, SHORTEST_WORD), "neither is a key"


def test_the_longest_comes_first_so_that_no_rest_of_one_is_left() -> None:
    values = {"ONE": "secret-1", "TWO": "secret-12345", "THREE": "secret-123"}
    secrets = found(values, api_key_env="ONE", header_envs={"X": "TWO", "Y": "THREE"})
    assert secrets == ["secret-12345", "secret-123", "secret-1"]
    assert crossing_out(secrets)("secret-123456 secret-123 secret-1") == "***6 *** ***"


# Crossing out.


def test_every_time_it_stands_there() -> None:
    assert crossing_out([KEY])(f"{KEY}{KEY} x{KEY}y\n{KEY}") == "****** x***y\n***"


@pytest.mark.parametrize(
    "secret", ['quo"ted-key', "back\\slash-key", "kéy-with-accent", "tab\tin-key", "🔑-the-key"]
)
def test_as_json_writes_it_too(secret: str) -> None:
    """What a child says comes as JSON lines."""
    cross_out = crossing_out([secret])
    assert cross_out(f"a {secret} b") == "a *** b"
    line = json.dumps({"event": "failed", "said": f"you sent {secret}!"})
    assert json.loads(cross_out(line)) == {"event": "failed", "said": "you sent ***!"}
    plain = json.dumps({"said": secret}, ensure_ascii=False)
    assert secret.strip('"') not in json.loads(cross_out(plain))["said"]


@given(
    st.lists(st.text(min_size=SHORTEST, max_size=20), max_size=4),
    st.lists(st.text(max_size=20), max_size=5),
)
def test_whatever_they_are_none_is_left(secrets: list[str], texts: list[str]) -> None:
    """Unless the marks themselves make one, as of the secret `******`."""
    secrets = [secret for secret in secrets if "*" not in secret]
    longest_first = sorted(secrets, key=len, reverse=True)
    text = "".join(part for pair in zip(texts, secrets, strict=False) for part in pair)
    crossed = crossing_out(longest_first)(text)
    assert not [secret for secret in secrets if secret in crossed]
    assert crossing_out(longest_first)("".join(texts)) == "".join(texts) or any(
        form in "".join(texts) for s in secrets for form in (s, json.dumps(s)[1:-1])
    )


@given(st.text(alphabet='ab "\\é\n', min_size=SHORTEST, max_size=12), st.text(max_size=20))
def test_nor_in_any_json_line(secret: str, text: str) -> None:
    line = json.dumps({"said": f"{text}{secret}{text}"})
    assert json.dumps(secret)[1:-1] not in crossing_out([secret])(line)
