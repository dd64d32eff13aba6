"""What a plan says that votes would cost: how many are open, of how many tokens, for what."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_recipe import tiny_recipe

from artifacts import Store
from flows.pipeline import TYPICAL_COUNT, expected_entries, pipeline
from flows.plan import plan
from flows.plan_runner import PlanRunner
from flows.purchases import (
    ENOUGH,
    REASONING_SHARE,
    SHORT_REPLY,
    TYPICAL,
    _open_votes,
    cap_line,
    purchase_table,
    votes_line,
)
from flows.voting import rule_of
from lorapar_core.config import Recipe
from lorapar_core.parquet import write_table
from lorapar_core.prepare import EXAMPLES, TOKENS
from lorapar_core.recipe import parse_recipe
from lorapar_core.rounds import Votes, is_audited, next_round, order
from lorapar_core.rule import Rule, Vote
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Attempt, Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.prices import likely_tokens
from lorapar_core.teachers.prompts import vote_prompt
from lorapar_core.teachers.replies import LIKELY_TOKENS
from lorapar_core.teachers.tables import write_votes
from tasks.action import Action

TARGET = "somebody"
_HASHES = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(400)]
IDS = _HASHES[:60]
ALIKE = [i for i in _HASHES if not is_audited(i) and order(i, "abc") == ["a", "b", "c"]][:8]
"""Everybody is asked about them in the same order, and nobody needs to be asked about all."""
QUESTIONS = {
    i: Question(i, f"How many are {k} and {k}? {'Think. ' * k}", str(2 * k))
    for k, i in enumerate(_HASHES)
}
Held = Mapping[str, Mapping[str, Vote]]
"""Teacher -> example id -> its vote."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Told by its files alone; nobody reads them."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def far(name: str, **changed: Any) -> dict[str, Any]:
    """A dollar a million prompt tokens, ten for completions."""
    return {
        "name": name,
        "model": f"openai/{name}",
        "input_usd": 1.0,
        "output_usd": 10.0,
        **changed,
    }


def recipe_of(
    model: Path,
    teachers: Iterable[str | Mapping[str, Any]],
    *,
    data: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
    **voting: Any,
) -> Recipe:
    fields = tiny_recipe(model)
    fields["runtime"] = {**fields.get("runtime", {}), **(runtime or {})}
    fields["teachers"] = [far(t) if isinstance(t, str) else t for t in teachers]
    fields["voting"] = {"target": TARGET, **voting}
    fields["data"] = {**fields["data"], "examples": len(IDS), **(data or {})}
    return parse_recipe(fields)


def actions(recipe: Recipe, store: Store) -> dict[str, Action]:
    runner = PlanRunner(store)
    pipeline(recipe, runner)
    return {action.name: action for action, _ in runner.actions}


def publish(store: Store, action: Action, files: Mapping[str, bytes]) -> None:
    assert action.key is not None
    out = store.scratch(action.key) / "out"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(data)
    store.publish(
        out,
        key=action.key,
        stage=action.stage,
        name=action.name,
        version=action.version,
        config=action.config,
        inputs={role: str(value.digest) for role, value in action.inputs.items()},
        provenance={},
    )


def prepared(recipe: Recipe, store: Store, tmp_path: Path, ids: Sequence[str] = IDS) -> None:
    """The examples are there."""
    table = tmp_path / "examples.parquet"
    columns: dict[str, list[Any]] = {name: [""] * len(ids) for name in EXAMPLES.names}
    columns["id"] = list(ids)
    columns["prompt"] = [QUESTIONS[i].prompt for i in ids]
    columns["answer"] = [QUESTIONS[i].answer for i in ids]
    write_table(table, columns, EXAMPLES)
    files = {"examples.parquet": table.read_bytes(), "ids.json": json.dumps(list(ids)).encode()}
    files |= dict.fromkeys(("test.parquet", "test_tokens.parquet"), b"")
    files["summary.json"] = json.dumps({"train": len(ids), "test": 6}).encode()
    write_table(table, {name: [] for name in TOKENS.names}, TOKENS)
    files["tokens.parquet"] = table.read_bytes()
    publish(store, actions(recipe, store)["prepare"], files)


def hold(
    recipe: Recipe,
    store: Store,
    teacher: str,
    votes: Mapping[str, Vote],
    *,
    used: Sequence[int] = (),
) -> None:
    """A ledger holds these votes; `used` completion tokens were seen."""
    ledger = store.ledger(actions(recipe, store)[f"vote[{teacher}]"].ledger)
    with Ledger.opened(ledger) as opened:
        opened.keep_now([Ballot(i, v, "", "", "" if v else "off_schema") for i, v in votes.items()])
        for tokens in used:
            number = opened.sent("x", usd=0.0)
            opened.came(number, Attempt("x", "vote", 200, 300, tokens))


def cast(
    recipe: Recipe, store: Store, name: str, votes: Mapping[str, Vote], tmp_path: Path
) -> None:
    """A round's action is cached; a vote that is None came too late, which no ledger keeps."""
    folder = tmp_path / name.replace("/", "-")
    folder.mkdir()
    ballots = [Ballot(i, v, "", "", "" if v else "deadline") for i, v in votes.items()]
    write_votes(folder, ballots, [], teacher=name, asked="0")
    data = (folder / "votes.parquet").read_bytes()
    publish(store, actions(recipe, store)[f"vote[{name}]"], {"votes.parquet": data})


def by_teacher(planned: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Teacher -> the least and the most votes to buy of it."""
    return {p["teacher"]: (p["votes_least"], p["votes"]) for p in planned["purchases"]}


def message(question: Question, **how: Any) -> str:
    asked = {"wording": "direct", "role_play": True, "target": TARGET, **how}
    return vote_prompt(
        example_id=question.example_id, prompt=question.prompt, answer=question.answer, **asked
    )


# Full voting.


def test_of_full_voting_every_vote_that_no_ledger_holds_is_counted(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "abc")
    prepared(recipe, store, tmp_path)
    hold(recipe, store, "b", dict.fromkeys(IDS[:20], 1))
    hold(recipe, store, "c", {**dict.fromkeys(IDS, None), "another": 2})
    planned = plan(recipe, store=store)
    assert by_teacher(planned) == {"a": (60, 60), "b": (40, 40), "c": (0, 0)}
    assert (planned["votes"], planned["votes_least"]) == (100, 100)
    assert planned["votes_exact"] is True
    assert [p["begun"] for p in planned["purchases"]] == [60, 40, 0], "c was asked about all"

    a, b, _ = planned["purchases"]
    for bought, ids in ((a, IDS), (b, IDS[20:])):
        prompt = sum(likely_tokens(message(QUESTIONS[i])) for i in ids)
        assert bought["prompt_tokens"] == round(prompt)
        assert bought["completion_tokens"] == LIKELY_TOKENS * len(ids)
        usd = (prompt + 10 * LIKELY_TOKENS * len(ids)) / 1e6
        assert bought["cost_usd"] == pytest.approx(usd, abs=1e-6)
        longest = (prompt + 10 * 64 * len(ids)) / 1e6
        assert bought["cost_usd_longest"] == pytest.approx(longest, abs=1e-6)
        assert bought["usd_per_million"] == [1.0, 10.0]
    for figure in ("cost_usd", "cost_usd_longest"):
        assert planned[figure] == pytest.approx(a[figure] + b[figure], abs=2e-6)


def test_begun_are_those_that_somebody_was_asked_about(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "abc")
    prepared(recipe, store, tmp_path)
    hold(recipe, store, "a", dict.fromkeys(IDS[:5], 1))
    hold(recipe, store, "b", dict.fromkeys(IDS[3:9], 1))
    found = {p["teacher"]: p["begun"] for p in plan(recipe, store=store)["purchases"]}
    assert found == {"a": 4, "b": 3, "c": 9}


def test_a_round_that_is_cached_is_bought_whatever_its_ledger_says(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "ab")
    prepared(recipe, store, tmp_path)
    cast(recipe, store, "a", {**dict.fromkeys(IDS, 1), IDS[7]: None}, tmp_path)
    assert by_teacher(plan(recipe, store=store)) == {"b": (60, 60)}
    cast(recipe, store, "b", dict.fromkeys(IDS, 2), tmp_path)
    planned = plan(recipe, store=store)
    assert planned["purchases"] == []
    assert (planned["votes"], planned["votes_least"]) == (0, 0)
    assert (planned["cost_usd"], planned["cost_usd_longest"]) == (0, 0)


def test_another_wording_is_asked_anew_and_counted_by_its_own_length(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "a")
    prepared(recipe, store, tmp_path)
    hold(recipe, store, "a", dict.fromkeys(IDS, 1))
    assert plan(recipe, store=store)["votes"] == 0
    for how in ({"wording": "examiner"}, {"role_play": False}):
        teacher = far("a", **{k: v for k, v in how.items() if k == "wording"})
        voting = {k: v for k, v in how.items() if k == "role_play"}
        (bought,) = plan(recipe_of(model, [teacher], **voting), store=store)["purchases"]
        prompt = sum(likely_tokens(message(QUESTIONS[i], **how)) for i in IDS)
        assert (bought["votes"], bought["prompt_tokens"]) == (60, round(prompt))


def test_local_teachers_and_replays_cost_nothing_and_are_not_among_them(
    model: Path, store: Store, tmp_path: Path
) -> None:
    votes = tmp_path / "votes.parquet"
    votes.write_bytes(b"")
    teachers = [
        "a",
        {"name": "near", "provider": "local"},
        {"name": "replayed", "provider": "replay", "model": str(votes)},
    ]
    recipe = recipe_of(model, teachers)
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    assert by_teacher(planned) == {"a": (60, 60)}
    assert (planned["votes"], planned["local_votes"]) == (60, 60)


def test_the_judge_is_asked_about_the_ties_that_are_known(
    model: Path, store: Store, tmp_path: Path
) -> None:
    for curtailed in (False, True):
        place = tmp_path / str(curtailed)
        place.mkdir()
        store = Store.open(place / "store")
        recipe = recipe_of(model, "abz", tie="escalate", escalate_to="z", curtailed=curtailed)
        prepared(recipe, store, place)
        assert set(by_teacher(plan(recipe, store=store))) == {"a", "b"}
        cast(recipe, store, "a", dict.fromkeys(IDS, 1), place)
        cast(recipe, store, "b", {i: 1 + (k < 12) for k, i in enumerate(IDS)}, place)
        planned = plan(recipe, store=store)
        assert by_teacher(planned) == {"z": (12, 12)}
        assert planned["purchases"][0]["begun"] == 0  # of what ledgers say
        hold_judge = actions(recipe, store)["vote[z/2]"]
        with Ledger.opened(store.ledger(hold_judge.ledger)) as ledger:
            ledger.keep_now([Ballot(i, 1, "", "") for i in IDS[:5]])
        assert by_teacher(plan(recipe, store=store)) == {"z": (7, 7)}


# Prices.


def test_a_price_that_nobody_knows_makes_the_sum_unknown(
    model: Path, store: Store, tmp_path: Path
) -> None:
    unknown = {"name": "b", "model": "openai/no-such-model-of-ours"}
    recipe = recipe_of(model, ["a", unknown])
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    a, b = planned["purchases"]
    assert a["cost_usd"] > 0
    assert b["cost_usd"] is b["cost_usd_longest"] is b["usd_per_million"] is None
    assert planned["cost_usd"] is planned["cost_usd_longest"] is None
    assert (planned["votes"], b["votes"]) == (120, 60)
    assert json.loads(json.dumps(planned)) == planned
    (line,) = [x for x in purchase_table(planned).splitlines() if x.startswith("b ")]
    assert line.count("unknown") == 3

    hold(recipe, store, "b", dict.fromkeys(IDS, 1))
    b = plan(recipe, store=store)["purchases"][1]
    assert b["votes"] == 0


def test_a_server_of_ones_own_costs_nothing_and_that_is_known(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, [far("a", input_usd=0, output_usd=0, api_base="http://localhost:1")])
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    assert planned["cost_usd"] == planned["cost_usd_longest"] == 0.0
    assert planned["votes"] == 60


# Before `prepare`.


def test_the_examples_of_a_file_are_known_before_prepare(
    model: Path, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [(f"How many are {k} and {k}? {'Think. ' * k}", str(2 * k)) for k in range(30)]
    file.write_text(
        "".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in rows)
    )
    recipe = recipe_of(model, "ab", data={"source": str(file), "examples": 20, "test_examples": 6})
    planned = plan(recipe, store=store)
    assert planned["votes_exact"] is False
    assert by_teacher(planned) == {"a": (20, 20), "b": (20, 20)}
    tokens = [p["prompt_tokens"] for p in planned["purchases"]]
    lengths = [likely_tokens(message(Question("x", *row))) for row in rows]
    assert 20 * min(lengths) < tokens[0] == tokens[1] < 20 * max(lengths)

    chosen = [entry.id for entry in expected_entries(recipe, PlanRunner(store))]
    assert len(chosen) == 20
    hold(recipe, store, "a", dict.fromkeys([*chosen[:7], "another"], 1))
    planned = plan(recipe, store=store)
    assert by_teacher(planned) == {"a": (13, 13), "b": (20, 20)}
    assert [p["begun"] for p in planned["purchases"]] == [0, 7]

    curtailed = recipe.model_copy(
        update={"voting": recipe.voting.model_copy(update={"curtailed": True})}
    )
    found = by_teacher(plan(curtailed, store=store))
    assert found == bounds(curtailed, chosen, {"a": dict.fromkeys(chosen[:7], 1)})


@pytest.mark.parametrize("curtailed", [False, True])
def test_what_nobody_has_read_yet_is_taken_to_be_typical(
    model: Path, store: Store, curtailed: bool
) -> None:
    recipe = recipe_of(model, "abc", data={"examples": 1000}, curtailed=curtailed)
    hold(recipe, store, "a", dict.fromkeys(IDS, 1))  # of no use while the examples aren't known
    planned = plan(recipe, store=store)
    least = 100 + 600 if curtailed else 1000  # a tenth by all, and two of three in turns
    assert by_teacher(planned) == dict.fromkeys("abc", (least, 1000))
    assert (planned["votes"], planned["votes_exact"]) == (3000, False)
    assert planned["votes_least"] == 3 * least
    for bought in planned["purchases"]:
        assert bought["prompt_tokens"] == round(1000 * likely_tokens(message(TYPICAL)))
        assert bought["completion_tokens"] == 1000 * LIKELY_TOKENS
        assert bought["begun"] == 0


def test_of_data_that_nobody_has_counted_there_are_a_typical_number(
    model: Path, store: Store
) -> None:
    data = {"source": "gsm8k", "examples": 0, "test_examples": 0}
    planned = plan(recipe_of(model, "a", data=data), store=store)
    assert planned["votes"] == planned["votes_least"] == TYPICAL_COUNT


# Completions.


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (1, 1),
        (4, 4),
        (64, LIKELY_TOKENS),
        (SHORT_REPLY, LIKELY_TOKENS),
        (SHORT_REPLY + 1, (SHORT_REPLY + 1) / REASONING_SHARE),
        (8192, 8192 / REASONING_SHARE),
    ],
)
def test_completions_are_guessed_until_enough_have_been_seen(
    model: Path, store: Store, tmp_path: Path, max_tokens: int, expected: float
) -> None:
    recipe = recipe_of(model, [far("a", max_tokens=max_tokens)])
    prepared(recipe, store, tmp_path)

    def told() -> float:
        (bought,) = plan(recipe, store=store)["purchases"]
        return float(bought["completion_tokens"])

    assert told() == round(60 * expected)
    hold(recipe, store, "a", {}, used=[100] * (ENOUGH - 1))
    assert told() == round(60 * expected)
    hold(recipe, store, "a", {}, used=[300])
    assert told() == 60 * (100 * (ENOUGH - 1) + 300) / ENOUGH


def test_what_failures_and_replies_without_a_label_took_tells_nothing_of_a_vote(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "a")
    prepared(recipe, store, tmp_path)
    with Ledger.opened(store.ledger(actions(recipe, store)["vote[a]"].ledger)) as ledger:
        for outcome in ("off_schema", "timeout", "500"):
            for _ in range(ENOUGH):
                ledger.came(ledger.sent("x", usd=0.0), Attempt("x", outcome, None, 300, 999))
    (bought,) = plan(recipe, store=store)["purchases"]
    assert bought["completion_tokens"] == 60 * LIKELY_TOKENS


# Curtailed voting.


def bought_by(example_id: str, held: Held, given: Mapping[str, Vote], rule: Rule) -> set[str]:
    """Whom the rounds ask about an example and no ledger holds, where the open votes are given."""
    votes: dict[str, Votes] = {name: {} for name in held}
    asked: set[str] = set()
    while asks := next_round([example_id], votes, rule):
        for name in asks:
            votes[name] = {example_id: held[name].get(example_id, given.get(name))}
        asked |= asks.keys()
    return {name for name in asked if example_id not in held[name]}


def ways(example_id: str, held: Held, rule: Rule) -> list[set[str]]:
    """Who is asked, in every way in which the open votes may fall."""
    out = [name for name in held if example_id not in held[name]]
    return [
        bought_by(example_id, held, dict(zip(out, votes, strict=True)), rule)
        for votes in product((1, 2, None), repeat=len(out))
    ]


def bounds(recipe: Recipe, ids: Iterable[str], some: Held) -> dict[str, tuple[int, int]]:
    """By trying every way: teacher -> the examples that it is surely, and perhaps, asked about."""
    held = {teacher.name: some.get(teacher.name, {}) for teacher in recipe.panel}
    least, most = Counter[str](), Counter[str]()
    for example_id in ids:
        found = ways(example_id, held, rule_of(recipe))
        least.update(set.intersection(*found))
        most.update(set.union(*found))
    return {name: (least[name], most[name]) for name in held if most[name]}


def by_hash(teacher: str, example_id: str) -> Vote:
    return (1, 2, 2, 2, None)[hashlib.sha256(f"{teacher}{example_id}".encode()).digest()[0] % 5]


@pytest.mark.parametrize("names", ["a", "abc", "abcd", "abcde"])
@pytest.mark.parametrize(
    "voting", [{}, {"quorum": 1, "tie": "system1"}, {"tie": "drop", "abstentions": "drop"}], ids=str
)
def test_with_no_vote_held_the_first_round_is_the_least_and_all_are_the_most(
    model: Path, store: Store, tmp_path: Path, names: str, voting: dict[str, Any]
) -> None:
    recipe = recipe_of(model, names, curtailed=True, **voting)
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    first = next_round(IDS, {name: {} for name in names}, rule_of(recipe))
    assert by_teacher(planned) == {n: (len(first.get(n, ())), len(IDS)) for n in names}
    assert by_teacher(planned) == bounds(recipe, IDS, {})


def test_after_a_first_round_those_that_differ_are_open(
    model: Path, store: Store, tmp_path: Path
) -> None:
    """As a run leaves it that met its cap between two rounds."""
    recipe = recipe_of(model, "abcde", curtailed=True)
    prepared(recipe, store, tmp_path)
    first = next_round(IDS, {name: {} for name in "abcde"}, rule_of(recipe))
    held = {name: {i: by_hash(name, i) for i in ids} for name, ids in first.items()}
    for name, votes in held.items():
        hold(recipe, store, name, votes)
    found = by_teacher(plan(recipe, store=store))
    second = next_round(IDS, held, rule_of(recipe))
    assert second
    assert {name: least for name, (least, _) in found.items()} == {
        name: len(second.get(name, ())) for name in found
    }
    assert found == bounds(recipe, IDS, held)
    assert all(most < len(IDS) for _, most in found.values())
    begun = plan(recipe, store=store)["purchases"]
    assert [p["begun"] for p in begun] == [p["votes"] for p in begun]


def test_once_all_labels_are_certain_nothing_is_to_be_bought(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "abc", curtailed=True)
    prepared(recipe, store, tmp_path)
    votes: dict[str, Votes] = {name: {} for name in "abc"}
    while asks := next_round(IDS, votes, rule_of(recipe)):
        for name, ids in asks.items():
            votes[name] = {**votes[name], **{i: by_hash(name, i) for i in ids}}
    for name, given_votes in votes.items():
        hold(recipe, store, name, given_votes)
    planned = plan(recipe, store=store)
    assert planned["purchases"] == []
    full = recipe_of(model, "abc")
    assert plan(full, store=store)["votes"] == 3 * 60 - sum(map(len, votes.values())) > 0


def test_a_vote_that_came_too_late_is_in_its_round_and_not_bought_again(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, "abc", curtailed=True)
    prepared(recipe, store, tmp_path, ALIKE)
    assert by_teacher(plan(recipe, store=store)) == {"a": (8, 8), "b": (8, 8), "c": (0, 8)}
    ones: dict[str, Vote] = dict.fromkeys(ALIKE, 1)
    hold(recipe, store, "a", dict.fromkeys(ALIKE[1:], 1))
    hold(recipe, store, "b", ones)
    assert by_teacher(plan(recipe, store=store)) == {"a": (1, 1), "c": (0, 1)}
    cast(recipe, store, "b", ones, tmp_path)
    cast(recipe, store, "a", {**ones, ALIKE[0]: None}, tmp_path)
    assert by_teacher(plan(recipe, store=store)) == {"c": (1, 1)}


@pytest.mark.parametrize("calibration", ["none", "content_free"])
def test_what_a_local_teacher_has_voted_counts_once_it_can_be_told(
    model: Path, store: Store, tmp_path: Path, calibration: str
) -> None:
    """By its offset, which one that was stopped half-way doesn't have yet."""
    local = {"name": "a", "provider": "local", "calibration": calibration}
    recipe = recipe_of(model, [local, far("b"), far("c")], curtailed=True)
    prepared(recipe, store, tmp_path, ALIKE)
    hold(recipe, store, "b", dict.fromkeys(ALIKE, 1))
    action = actions(recipe, store)["vote[a]"]
    with Ledger.opened(store.ledger(action.ledger)) as ledger:
        ledger.keep_now([Ballot(i, 1, "", "", "", -0.5, -1.0) for i in ALIKE])
    found = by_teacher(plan(recipe, store=store))
    assert found == ({} if calibration == "none" else {"c": (0, 8)})

    with Ledger.opened(store.ledger(action.ledger)) as ledger:
        ledger.keep_now([Ballot(CONTENT_FREE_ID, 1, "", "", "", -0.5, -2.0)])  # turns it to 2
    found = by_teacher(plan(recipe, store=store))
    assert found == ({} if calibration == "none" else {"c": (8, 8)})


names_of = st.sampled_from(["abc", "abcd", "abcde"])
rules = st.builds(
    Rule,
    tie=st.sampled_from(["system1", "system2", "drop", "escalate"]),
    quorum=st.integers(1, 3),
    abstentions=st.sampled_from(["ignore", "drop"]),
)


@given(st.data(), names_of, rules, st.sampled_from(IDS[:30]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_held_the_rounds_buy_no_less_and_no_more(
    data: st.DataObject, names: str, rule: Rule, example_id: str
) -> None:
    """Held in any pattern, as other recipes and stopped runs leave it."""
    drawn = {name: data.draw(st.sampled_from(["open", 1, 2, None])) for name in names}
    held: dict[str, dict[str, Any]] = {
        name: {} if vote == "open" else {example_id: vote} for name, vote in drawn.items()
    }
    recipe = _recipe_with(names, rule)
    surely, perhaps = _open_votes(recipe, example_id, held)
    assert len({*surely, *perhaps}) == len(surely) + len(perhaps)
    found = ways(example_id, held, rule)
    assert set(surely) <= set.intersection(*found)
    assert set.union(*found) <= {*surely, *perhaps}
    assert not perhaps or surely
    assert bool(surely) == bool(set.union(*found))


def _recipe_with(names: str, rule: Rule) -> Recipe:
    judge = {"escalate_to": "z"} if rule.tie == "escalate" else {}
    return parse_recipe(
        {
            "teachers": [far(name) for name in (*names, *("z" if judge else ""))],
            "voting": {
                "curtailed": True,
                "tie": rule.tie,
                "quorum": rule.quorum,
                "abstentions": rule.abstentions,
                **judge,
            },
        }
    )


# For people.


def test_the_table_has_a_line_for_each_teacher(model: Path, store: Store, tmp_path: Path) -> None:
    recipe = recipe_of(model, ["a", far("b", input_usd=0.15, output_usd=0.6)], curtailed=True)
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    head, _, *lines = purchase_table(planned).splitlines()
    assert head.split()[:2] == ["teacher", "votes"]
    for line, bought in zip(lines, planned["purchases"], strict=True):
        votes = f"{bought['votes_least']} to {bought['votes']}"
        least_votes = votes if bought["votes_least"] < bought["votes"] else str(bought["votes"])
        assert line.startswith(f"{bought['teacher']} ")
        assert f" {least_votes} " in line
        assert f"${bought['cost_usd']:.2f}" in line
    assert "1 / 10" in lines[0]
    assert "0.15 / 0.6" in lines[1]


def test_curtailed_votes_cost_from_the_least_to_the_most(
    model: Path, store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(model, [far("a"), far("b"), far("c")], curtailed=True)
    prepared(recipe, store, tmp_path)
    planned = plan(recipe, store=store)
    assert planned["votes_least"] < planned["votes"] == 3 * len(IDS)
    assert planned["cost_usd_least"] == pytest.approx(
        sum(p["cost_usd"] * p["votes_least"] / p["votes"] for p in planned["purchases"]), abs=1e-5
    )
    count = f"{planned['votes_least']} to {planned['votes']}"
    low, high = (f"${planned[name]:.2f}" for name in ("cost_usd_least", "cost_usd"))
    assert votes_line(planned) == f"votes to buy: {count} (about {low} to {high})"


def test_the_plan_tells_what_is_spent_of_a_cap(model: Path, store: Store, tmp_path: Path) -> None:
    runtime = {"budget_usd": 5, "budget_votes": 200}
    recipe = recipe_of(model, "ab", runtime=runtime)
    assert plan(recipe, store=store)["budget"]["spent_votes"] is None
    prepared(recipe, store, tmp_path)
    hold(recipe, store, "b", dict.fromkeys(IDS[:7], 2))
    ledger = store.ledger(actions(recipe, store)["vote[b]"].ledger)
    with Ledger.opened(ledger) as opened:
        opened.came(opened.sent(IDS[0], usd=1.0), Attempt(IDS[0], "vote", 200, cost_usd=0.25))
    planned = plan(recipe, store=store)
    assert planned["budget"] == {**runtime, "spent_usd": 0.25, "spent_votes": 7}
    assert cap_line(planned) == "spent of the cap: $0.2500 of $5, 7 of 200 votes"
    assert cap_line(plan(recipe_of(model, "ab"), store=store)) == ""
