"""What a teacher costs: as the recipe says, else as litellm's table does, else nobody knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.config import TeacherConfig
from lorapar_core.teachers import prices
from lorapar_core.teachers.prices import Price, likely_tokens, most_tokens, price_of

ROOT = Path(__file__).parents[3]


def teacher(model: str = "openai/gpt-4o-mini", **fields: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"name": "t", "model": model, **fields})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "small": {
            "litellm_provider": "openai",
            "input_cost_per_token": 1e-6,
            "output_cost_per_token": 2e-6,
        },
        "far/small": {
            "litellm_provider": "far",
            "input_cost_per_token": 3e-6,
            "output_cost_per_token": 4e-6,
        },
        "half": {"litellm_provider": "openai", "input_cost_per_token": 1e-6},
        "silent": {"litellm_provider": "openai"},
    }
    monkeypatch.setattr(prices, "_table", lambda: entries)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("small", Price(1e-6, 2e-6)),
        ("openai/small", Price(1e-6, 2e-6)),
        ("far/small", Price(3e-6, 4e-6)),
        ("elsewhere/small", None),  # another provider's model of that name
        ("openai/absent", None),
        ("openai/half", None),
        ("openai/silent", None),
    ],
)
def test_the_table_tells_the_price_of_what_it_knows(model: str, price: Price | None) -> None:
    assert price_of(teacher(model)) == price


@pytest.mark.usefixtures("table")
def test_the_recipe_s_price_counts_before_the_table_s() -> None:
    assert price_of(teacher("small", input_usd=5, output_usd=7)) == Price(5e-6, 7e-6)
    assert price_of(teacher("absent", input_usd=0, output_usd=0)) == Price(0.0, 0.0)


@pytest.mark.usefixtures("table")
def test_what_stands_behind_an_api_base_no_table_knows() -> None:
    own = {"api_base": "http://127.0.0.1:8000/v1"}
    assert price_of(teacher("openai/small", **own)) is None
    priced = teacher("openai/small", **own, input_usd=1.0, output_usd=2.0)
    assert price_of(priced) == Price(1e-6, 2e-6)


@pytest.mark.parametrize("provider", ["local", "replay"])
def test_what_is_not_bought_costs_nothing(provider: str) -> None:
    assert price_of(teacher("votes.parquet", provider=provider)) == Price(0.0, 0.0)


def test_a_request_costs_both_ways() -> None:
    assert Price(2.0, 3.0).of(5, 7) == 31.0


def test_litellm_s_own_table_is_read_without_importing_litellm() -> None:
    script = (
        "import json, sys\n"
        "from lorapar_core.config import TeacherConfig\n"
        "from lorapar_core.teachers.prices import price_of\n"
        "names = ['openai/gpt-4o-mini', 'gpt-4o-mini', 'openai/no-such-model-of-theirs']\n"
        "found = [price_of(TeacherConfig(name='t', model=name)) for name in names]\n"
        "told = [found and [found.prompt, found.completion] for found in found]\n"
        "loaded = [m for m in ('litellm', 'openai', 'httpx', 'aiohttp') if m in sys.modules]\n"
        "print(json.dumps([told, loaded]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (with_provider, without, absent), loaded = json.loads(done.stdout)
    assert with_provider == without
    assert 0 < with_provider[0] < with_provider[1] < 1e-4, "dollars a token, not a million"
    assert absent is None
    assert loaded == []


def test_without_litellm_no_price_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices.importlib.util, "find_spec", lambda _name: None)
    prices._table.cache_clear()
    assert price_of(teacher()) is None
    prices._table.cache_clear()


@given(st.text())
def test_no_message_has_more_tokens_than_bytes_and_a_frame(message: str) -> None:
    size = len(message.encode("utf-8", "replace"))
    assert most_tokens(message) == size + prices.FRAME_TOKENS
    assert 0 < likely_tokens(message) < most_tokens(message)


def test_half_a_character_is_counted() -> None:
    assert most_tokens("\ud83d") == 1 + prices.FRAME_TOKENS
    assert likely_tokens("\ud83d") == 1 / 4 + prices.LIKELY_FRAME_TOKENS


def test_likely_are_four_bytes_a_token_and_what_stands_around_a_message() -> None:
    assert likely_tokens("") == prices.LIKELY_FRAME_TOKENS == 16
    assert likely_tokens("a" * 400) == 100 + 16
    assert likely_tokens("é" * 400) == 200 + 16
