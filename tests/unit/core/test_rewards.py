"""The paper's rewards: at most 1, 0 for wrong, right however the number is written."""

from __future__ import annotations

import typing

import pytest

from lorapar_core.answers import HASH, TAGS
from lorapar_core.config import OUR_REWARDS, PAPER_REWARDS, GrpoConfig
from lorapar_core.rewards.registry import REWARDS


def tags(answer: str) -> str:
    return f"<reasoning>\nbecause\n</reasoning>\n<answer>\n{answer}\n</answer>"


def test_the_recipe_knows_every_reward() -> None:
    assert list(REWARDS) == [*PAPER_REWARDS, *OUR_REWARDS]
    assert list(GrpoConfig().rewards) == [*PAPER_REWARDS]
    for reward in REWARDS.values():
        assert typing.get_type_hints(reward)["return"] is float


@pytest.mark.parametrize("written", ["1234", "1,234", "$1,234", "1234.0", " 1234. "])
def test_a_right_answer_is_right_however_it_is_written(written: str) -> None:
    assert REWARDS["correctness"](tags(written), "1,234", TAGS) == 1
    assert REWARDS["correctness"](f"work\n#### {written}", "1234", HASH) == 1


def test_an_answer_must_be_marked_as_the_answer() -> None:
    assert REWARDS["correctness"]("It is 8.", "8", TAGS) == 0
    assert REWARDS["correctness"]("It is 8.", "8", HASH) == 0
    assert REWARDS["correctness"](tags("9") + " or 8", "8", TAGS) == 0
    assert REWARDS["correctness"]("#### 9\nor 8", "8", HASH) == 0


def test_answers_in_words() -> None:
    assert REWARDS["correctness"](tags("Paris."), "paris", TAGS) == 1
    assert REWARDS["correctness"](tags("Lyon"), "paris", TAGS) == 0


@pytest.mark.parametrize(
    ("answer", "reward"), [("8", 1), ("-1,234", 1), ("8.00", 1), ("8.5", 0), ("eight", 0)]
)
def test_integer(answer: str, reward: float) -> None:
    assert REWARDS["integer"](tags(answer), "5", TAGS) == reward
    assert REWARDS["integer"](f"#### {answer}", "5", HASH) == reward


def test_a_perfect_completion_earns_every_weight() -> None:
    weights = GrpoConfig().rewards
    for completion, form in ((tags("8"), TAGS), ("5 + 3 = 8\n#### 8", HASH)):
        total = sum(weights[name] * REWARDS[name](completion, "8", form) for name in weights)
        assert total == pytest.approx(4.0)


def test_an_empty_completion_earns_nothing() -> None:
    for form in (TAGS, HASH):
        earned = {name: REWARDS[name]("", "8", form) for name in REWARDS if name != "execution"}
        assert set(earned.values()) == {0.0}
