"""Secrets are crossed out of what is told: as they are, in JSON values, and in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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


def test_they_are_the_keys_and_header_values_of_all_teachers() -> None:
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


def test_they_are_whatever_the_environment_calls_a_secret_too() -> None:
    """litellm takes a provider's usual key where the recipe names none."""
    secret = {
        "OPENAI_API_KEY": "openai-secret",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-key",
        "AWS_SESSION_TOKEN": "aws-session-token",
        "HF_TOKEN": "hub-token",
        "CLIENT_SECRET": "client-secret",
        "SOME_PASSWORD": "the-password",
        "PGPASSWORD": "the-pg-password",
        "KEY": "just-a-key",
        "TOKEN": "just-a-token",
    }
    harmless = {
        "KEYBOARD": "qwertzuiop",
        "TOKENIZERS_PARALLELISM": "disabled",
        "KEY_FILE": "/home/somebody/key",
        "SECRETS_DIR": "/run/secrets",
        "openai_api_key": "lower-case",
        "PASSWORD_STORE": "/home/somebody/store",
        "HOME": "/home/somebody",
    }
    for teachers in ([], [teacher()], [teacher(api_key_env="OPENAI_API_KEY")]):
        assert set(secrets_of(teachers, {**secret, **harmless})) == set(secret.values())
    named = [teacher(header_envs={"X": "HOME"})]
    assert set(secrets_of(named, {**secret, **harmless})) == {
        *secret.values(),
        harmless["HOME"],
    }


def test_short_values_of_the_environment_are_left_too() -> None:
    environment = {"A_KEY": "12345", "B_TOKEN": "", "C_PASSWORD": "123456"}
    assert secrets_of([], environment) == ["123456"]


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
    "secret",
    ['quo"ted-key', "back\\slash-key", "kéy-with-accent", "tab\tin-key", "🔑-the-key", "line\nkey"],
)
def test_whatever_json_makes_of_it(secret: str) -> None:
    """A child's lines are parsed first, so that no escape hides a secret."""
    cross_out = crossing_out([secret])
    assert cross_out(f"a {secret} b") == "a *** b"
    for ascii_only in (True, False):
        line = json.dumps(
            {"event": "failed", "said": f"you sent {secret}!"}, ensure_ascii=ascii_only
        )
        assert cross_out(json.loads(line)) == {"event": "failed", "said": "you sent ***!"}


@pytest.mark.parametrize("secret", ['canary "header" 0815', "back\\slash-key", "kéy-with-accent"])
def test_an_error_that_quotes_its_json_body_shows_none_of_it(secret: str) -> None:
    """So litellm tells of Anthropic, Gemini, DeepSeek and Mistral; in a child's line too."""
    cross_out = crossing_out(secrets_of([], {"A_KEY": secret}))
    body = json.dumps({"error": {"message": f"bad key {secret}"}})
    told = f"AnthropicException - {body}"
    expected = 'AnthropicException - {"error": {"message": "bad key ***"}}'
    assert cross_out(told) == expected
    assert cross_out(json.loads(json.dumps({"message": told}))) == {"message": expected}


def test_json_values_are_crossed_out_to_their_depth_and_names_and_numbers_left() -> None:
    given = {
        KEY: [f"Bearer {KEY}", {"deep": [KEY, [KEY]], KEY: 1}],
        "progress": "the progress report",
        "numbers": [4521, 0.004521, -4521, True, None],
    }
    cross_out = crossing_out(["progress report", KEY, "progress", "004521"])
    assert cross_out(given) == {
        KEY: ["Bearer ***", {"deep": ["***", ["***"]], KEY: 1}],
        "progress": "the ***",
        "numbers": [4521, 0.004521, -4521, True, None],
    }
    assert given["progress"] == "the progress report", "what was given stays as it is"
    for plain in (None, True, 3, 0.5, [], {}, ""):
        assert cross_out(plain) == plain


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
    plain = "".join(texts)
    assert crossing_out(longest_first)(plain) == plain or any(
        form in plain for s in secrets for form in (s, json.dumps(s)[1:-1])
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


def texts_of(value: Any) -> Iterator[str]:
    """All but names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


def bones(value: Any) -> Any:
    """All but texts."""
    if isinstance(value, dict):
        return {name: bones(part) for name, part in value.items()}
    if isinstance(value, list):
        return [bones(part) for part in value]
    return "" if isinstance(value, str) else value


@given(JSON, st.text(alphabet='ab "\\é\n', min_size=SHORTEST, max_size=12), st.text(max_size=20))
def test_nor_in_any_json_value_whose_form_is_kept(value: Any, secret: str, text: str) -> None:
    whole = {"said": f"{text}{secret}{text}", "more": [value, {secret: secret}]}
    crossed = crossing_out([secret])(whole)
    assert not [said for said in texts_of(crossed) if secret in said]
    assert bones(crossed) == bones(whole)
    assert json.loads(json.dumps(crossed)) == crossed
