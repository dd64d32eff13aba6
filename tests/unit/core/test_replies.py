"""What counts as a vote in a teacher's reply, and what doesn't."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.teachers.ballot import LATE, OFF_SCHEMA, REFUSED, Ballot
from lorapar_core.teachers.replies import ASK, REQUEST, digit_logprobs, parse_reply
from lorapar_core.vote import read_anew


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("System 1", 1),
        ("System 2", 2),
        ("  system 2.\n", 2),
        ("SYSTEM 1", 1),
        ("System2", 2),
        ("1", 1),
        ("2.", 2),
        (" 2 .", 2),
        ('{"system": "System 1"}', 1),
        ('\n{ "system" : "2" }\n', 2),
        ('{"system": 1}', 1),
        ('{"system": 2}', 2),
        ('{"system": "2."}', 2),
        ("**System 2**", 2),
        ("**System 1.**", 1),
        ("__1__", 1),
        ("`2`", 2),
        ("*System 1*\n", 1),
        ('"System 1"', 1),
        ("'system 2'", 2),
        ("```\nSystem 2\n```", 2),
        ("``` 1 ```", 1),
        ('```json\n{"system": "System 1"}\n```', 1),
        ('\n```JSON\r\n{"system": 2}\r\n```\n', 2),
    ],
)
def test_a_reply_that_is_just_a_label_counts(reply: str, label: int) -> None:
    assert parse_reply(reply) == label


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "**",
        "``````",
        "**System 1** or **System 2**",
        "```System 1```\n```System 2```",
        '```json\n{"system": "System 1"}\n```\nIt takes one step.',
        '```json\n{"system": "System 1", "system": "System 2"}\n```',
        " ",
        "System",
        "System 3",
        "12",
        "System 1 or System 2",
        "System 1\nSystem 2",
        "System 2, because it takes two steps.",
        "I can't tell.",
        "1.0",
        "-1",
        "**System 2** because it takes two steps",
        "# System 2",
        "System **2",
        "```python\n2\n```",
        "```\n1\n```\n```\n2\n```",
        "```\nSystem 1\n```\nSystem 2",
        'Here it is: ```json\n{"system": 1}\n```',
        '```json\n{"system": 1, "system": 2}\n```',
        "[]",
        "{}",
        "{",
        "null",
        '["System 1"]',
        '[{"system": "System 1"}]',
        '{"system": 1.0}',
        '{"system": 3}',
        '{"system": 0}',
        '{"system": true}',
        '{"system": null}',
        '{"system": NaN}',
        '{"system": Infinity}',
        '{"system": []}',
        '{"system": [1]}',
        '{"system": {"system": "System 1"}}',
        '{"system": [["system", "System 1"]]}',
        '{"vote": {"system": "System 1"}}',
        '{"system": "System 1", "why": "two steps"}',
        '{"System": "System 1"}',
        '{"system": "System 1"} {"system": "System 1"}',
        '{"system": "System 1"',
        '{"system": "System 1", "system": "System 2"}',
        '{"system": 1, "system": 1}',
        '{"system": ' + "1" * 5000 + "}",
        '{"system": ' * 100_000,
        '{"system": ' + "[" * 100_000,
    ],
    ids=lambda reply: reply[:40],
)
def test_anything_else_is_no_vote(reply: str) -> None:
    assert parse_reply(reply) is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_json_of_any_other_form_is_no_vote(value: object) -> None:
    for document in (value, [value], {"system": [value]}, {"vote": value}):
        reply = json.dumps(document)
        if not isinstance(document, str):
            assert parse_reply(reply) is None


@given(st.text())
def test_no_text_breaks_it(reply: str) -> None:
    assert parse_reply(reply) in (1, 2, None)
    assert parse_reply("{" + reply) in (1, 2, None)


@pytest.mark.parametrize(
    "reply",
    [
        "```" + " " * 100_000 + "x",
        "```json" * 20_000,
        "``" * 50_000 + "x",
        "* " * 50_000,
        "1" + " " * 100_000 + "x",
        '{"system": "2' + " " * 100_000 + 'x"}',
        "system" + " " * 100_000 + "x",
    ],
    ids=lambda reply: reply[:20],
)
def test_no_reply_takes_long_to_read(reply: str) -> None:
    began = time.process_time()
    assert parse_reply(reply) is None
    assert time.process_time() - began < 1


def test_the_replies_that_are_asked_for_are_taken() -> None:
    schema = REQUEST["schema"]["response_format"]["json_schema"]["schema"]
    for label, name in enumerate(schema["properties"]["system"]["enum"], start=1):
        assert parse_reply(name) == label
        assert parse_reply(json.dumps({"system": name})) == label
        assert json.dumps({"system": name}) in ASK["schema"]
        assert name in ASK["text"]
        assert str(label) in ASK["logprobs"]


def test_log_probabilities_are_the_likelier_spelling_s() -> None:
    top = [(" 2", -0.5), ("1", -1.0), ("2", -3.0), ("System", -4.0)]
    assert digit_logprobs(top) == (-1.0, -0.5)
    assert digit_logprobs(reversed(top)) == (-1.0, -0.5)


@pytest.mark.parametrize("top", [[], [("1", -0.1)], [("2", -0.1), ("12", -1.0)]])
def test_an_absent_digit_gives_no_log_probabilities(top: list[tuple[str, float]]) -> None:
    assert digit_logprobs(top) is None


def test_an_old_reply_that_the_parser_reads_by_now_is_a_vote() -> None:
    old = Ballot("q", None, "**System 2**", "m", OFF_SCHEMA)
    assert read_anew(old) == Ballot("q", 2, "**System 2**", "m")


@pytest.mark.parametrize(
    "ballot",
    [
        Ballot("q", None, "perhaps 2", "m", OFF_SCHEMA),
        Ballot("q", None, "2", "", REFUSED),
        Ballot("q", None, "", "", LATE),
        Ballot("q", 1, "2", "m", logprob_1=-0.5, logprob_2=-1.0),
    ],
)
def test_nothing_else_is_read_anew(ballot: Ballot) -> None:
    assert read_anew(ballot) is ballot
