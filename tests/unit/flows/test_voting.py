"""The rounds of a recipe's votes: who is asked about what, from the first round to the judge.

The runner here computes nothing. A vote's action writes the votes that the test's script gives, to
a table and to the ledger that the action names, as the stage does; what the ledger holds isn't
bought again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_inputs import run_stage

from artifacts import Ref
from flows.composition import Run
from flows.voting import Voting, rule_of, voter_of
from lorapar_core.config import Recipe
from lorapar_core.errors import BudgetReached, VoteError
from lorapar_core.parquet import read_table, write_table
from lorapar_core.prepare import EXAMPLES
from lorapar_core.recipe import parse_recipe
from lorapar_core.rounds import is_audited, order
from lorapar_core.rule import Rule, Vote, decide
from lorapar_core.tally import labels_by_vote
from lorapar_core.teachers.ballot import Attempt, Ballot
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.purse import Purse
from lorapar_core.teachers.tables import write_votes
from tasks.action import Action, External, Outcome
from tasks.tally import tally

IDS = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(120)]
AUDITED = [i for i in IDS if is_audited(i)]
USUAL = [i for i in IDS if not is_audited(i)]
Script = Callable[[str, str], Vote]


def by_hash(teacher: str, example_id: str) -> Vote:
    """Votes that differ now and then, abstentions among them."""
    return (1, 2, 2, 2, None)[hashlib.sha256(f"{teacher}{example_id}".encode()).digest()[0] % 5]


class FakeStore:
    """Keeps the artifacts of one test in a folder."""

    def __init__(self, root: Path, ids: Sequence[str] = IDS) -> None:
        self.root = root
        for name in ("ledgers", "tmp", "objects"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.ids = list(ids)
        self.done: dict[str, Mapping[str, Ref]] = {}
        """Key -> outputs."""

    def put(self, content: bytes) -> Ref:
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "objects" / digest).write_bytes(content)
        return Ref(digest, len(content), "file")

    def path(self, ref: Ref) -> Path:
        return self.root / "objects" / ref.digest

    def ledger(self, digest: str) -> Path:
        return self.root / "ledgers" / digest

    def lookup(self, key: str) -> Any:
        found = self.done.get(key)
        return SimpleNamespace(key=key, outputs=found) if found else None


@dataclass
class _Promise:
    ended: Callable[[], Outcome]

    def result(self) -> Outcome:
        return self.ended()


@dataclass
class FakeRunner:
    """Runs votes by the script, and any other action not at all."""

    store: Any
    script: Script = by_hash
    downloads: bool = True
    most: Mapping[str, int] = field(default_factory=dict)
    """Teacher -> how many votes it gives before it says that the cap is met."""
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    """Name of each vote's action, and its ids."""
    bought: list[tuple[str, str]] = field(default_factory=list)
    """Teacher and example of each vote that wasn't in the ledger."""
    purses: list[str | None] = field(default_factory=list)
    broken: str = ""
    """A teacher that refuses."""

    def submit(self, action: Action) -> _Promise:
        if action.stage == "vote":
            self.asked.append((action.name, list(action.site["ids"])))
            self.purses.append(action.site.get("purse"))
        if action.key in self.store.done:
            return self._ended(action, "cached", self.store.done[action.key])
        if not self.downloads:
            return self._ended(action, "missing", {})
        if action.stage != "vote":
            return self._ended(action, "computed", {})
        return _Promise(lambda: self._vote(action))

    @staticmethod
    def _ended(action: Action, how: Any, outputs: Mapping[str, Ref]) -> _Promise:
        outcome = Outcome(action.name, action.stage, action.key, how, 0.0, outputs)
        return _Promise(lambda: outcome)

    def _ballot(self, teacher: str, example_id: str) -> Ballot:
        vote = self.script(teacher, example_id)
        return Ballot(example_id, vote, "", "", "" if vote else "off_schema")

    def _vote(self, action: Action) -> Outcome:
        assert action.key is not None
        teacher, ids = action.config["teacher"]["name"], action.site["ids"]
        if teacher == self.broken:
            raise VoteError(f"teacher {teacher!r} refuses")
        if action.site.get("purse"):
            assert Path(action.site.get("purse")).is_file()
        with Ledger.opened(self.store.ledger(action.ledger)) as ledger:
            missing = [i for i in ids if i not in ledger.votes]
            left = self.most.get(teacher, 10_000) - len(ledger.votes)
            for example_id in missing[:left]:
                number = ledger.sent(example_id, usd=0.5)
                ledger.came(number, Attempt(example_id, "vote", 200, cost_usd=0.25))
            ledger.keep_now([self._ballot(teacher, i) for i in missing[:left]])
            self.bought += [(teacher, i) for i in missing[:left]]
            if missing[left:]:
                raise BudgetReached(f"teacher {teacher!r} stops at the cap")
            ballots = [ledger.votes[example_id] for example_id in ids]
        out = Path(tempfile.mkdtemp(dir=self.store.root / "objects"))
        write_votes(out, ballots, [], teacher=teacher, asked=action.config["asked"])
        outputs = {"votes.parquet": self.store.put((out / "votes.parquet").read_bytes())}
        self.store.done[action.key] = outputs
        return Outcome(action.name, "vote", action.key, "computed", 0.0, outputs)


def recipe_of(names: str, *, runtime: Mapping[str, Any] | None = None, **voting: Any) -> Recipe:
    teachers = [{"name": n, "model": f"openai/{n}", "input_usd": 1, "output_usd": 1} for n in names]
    return parse_recipe({"teachers": teachers, "voting": voting, "runtime": runtime or {}})


BESIDE = Action("initialize", "initialize", config={})


def hold(
    runner: FakeRunner, recipe: Recipe, *, known: bool = True
) -> tuple[dict[str, list[Outcome]], Run]:
    run = Run(runner)
    voting = Voting(
        run,
        recipe,
        voters=[voter_of(teacher, None) for teacher in recipe.asked],
        examples=Ref("e" * 64, 1, "file"),
        ids=runner.store.ids if known else None,
        count=99,
        target="somebody",
    )
    votes, (beside,) = voting.votes(BESIDE)
    assert beside.name == "initialize"
    return votes, run


def number_of(name: str) -> int:
    """The round of a vote's action; those of the first have no suffix."""
    _, slash, number = name.removesuffix("]").partition("/")
    assert not slash or int(number) > 1
    return int(number) if slash else 1


def teacher_of(name: str) -> str:
    return name.removeprefix("vote[").removesuffix("]").partition("/")[0]


def votes_in(store: FakeStore, rounds: Sequence[Outcome]) -> dict[str, Vote]:
    found: dict[str, Vote] = {}
    for outcome in rounds:
        ref = outcome["votes.parquet"]
        assert isinstance(ref, Ref)
        table = read_table(store.path(ref), ["example_id", "label"])
        rows = dict(zip(*table.values(), strict=True))
        assert not rows.keys() & found.keys(), "nobody is asked twice"
        found |= rows
    return found


def labels_in(
    store: FakeStore, recipe: Recipe, votes: Mapping[str, Sequence[Outcome]]
) -> dict[str, int | None]:
    """As the tally makes them."""
    given = {name: votes_in(store, rounds) for name, rounds in votes.items()}
    judged = given.pop(recipe.judge.name) if recipe.judge else {}
    labels = labels_by_vote(IDS, given, rule_of(recipe), judged=judged)
    return {i: label.system for i, label in labels.items()}


def full(recipe: Recipe, script: Script = by_hash) -> dict[str, int | None]:
    """The label of every example where everybody votes."""
    rule, judge = rule_of(recipe), recipe.judge
    return {
        i: decide(
            [script(teacher.name, i) for teacher in recipe.panel],
            rule,
            judge=script(judge.name, i) if judge else None,
        ).system
        for i in IDS
    }


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path)


def test_full_voting_is_one_action_a_teacher_about_all_examples(store: FakeStore) -> None:
    runner, recipe = FakeRunner(store), recipe_of("abc")
    votes, run = hold(runner, recipe)
    assert runner.asked == [(f"vote[{name}]", IDS) for name in "abc"]
    assert labels_in(store, recipe, votes) == full(recipe)
    assert [outcome.name for outcome in run.outcomes] == [
        "vote[a]",
        "vote[b]",
        "vote[c]",
        "initialize",
    ]


@pytest.mark.parametrize("names", ["abc", "abcde", "a", "abcd"])
@pytest.mark.parametrize(
    "voting",
    [
        {},
        {"tie": "system1", "quorum": 1},
        {"tie": "drop", "abstentions": "drop"},
        {"panel": ["a"]},
    ],
    ids=str,
)
def test_curtailed_rounds_end_with_the_labels_of_full_voting(
    store: FakeStore, names: str, voting: dict[str, Any]
) -> None:
    runner, recipe = FakeRunner(store), recipe_of(names, curtailed=True, **voting)
    votes, _ = hold(runner, recipe)
    assert labels_in(store, recipe, votes) == full(recipe)
    assert set(votes) == {teacher.name for teacher in recipe.panel}
    for i in AUDITED:
        assert all(i in votes_in(store, rounds) for rounds in votes.values())
    assert len(runner.asked) == len({name for name, _ in runner.asked})
    numbers = [number_of(name) for name, _ in runner.asked]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, max(numbers) + 1))
    for teacher, rounds in votes.items():
        told = [outcome.name for outcome in rounds]
        assert told == [name for name, _ in runner.asked if teacher_of(name) == teacher]


@pytest.mark.parametrize(("names", "least"), [("abc", 0.1), ("abcde", 0.15)])
def test_curtailed_voting_asks_for_less_and_only_what_is_undecided(
    store: FakeStore, names: str, least: float
) -> None:
    runner, recipe = FakeRunner(store), recipe_of(names, curtailed=True)
    hold(runner, recipe)
    assert len(runner.bought) == len(set(runner.bought))
    assert len(runner.bought) < (1 - least) * len(IDS) * len(names)
    first = {f"vote[{name}]" for name in names}
    later = {i for name, ids in runner.asked if name not in first for i in ids}
    majority = len(names) // 2 + 1
    for i in USUAL:
        turns = [by_hash(name, i) for name in order(i, names)[:majority]]
        if len(set(turns)) == 1 and None not in turns:
            assert i not in later


def test_a_teacher_that_a_round_asks_nothing_has_no_action_in_it(tmp_path: Path) -> None:
    one = USUAL[0]
    turns = order(one, "abcde")
    store = FakeStore(tmp_path, [one])
    runner = FakeRunner(store, script=lambda name, _: (1, 1, 2, 1, 1)[turns.index(name)])
    votes, _ = hold(runner, recipe_of("abcde", curtailed=True))
    asked = [name for name, _ in runner.asked]
    assert sorted(asked[:3]) == sorted(f"vote[{name}]" for name in turns[:3])
    assert asked[3:] == [f"vote[{turns[3]}/2]"], "numbered by the round, not by its own actions"
    assert votes[turns[4]] == []
    assert {len(votes[name]) for name in turns[:4]} == {1}


@pytest.mark.parametrize("labels", ["votes", "random"])
def test_the_tally_is_given_all_that_it_reads(
    store: FakeStore, tmp_path: Path, labels: str
) -> None:
    recipe = recipe_of(
        "abz", tie="escalate", escalate_to="z", curtailed=True, labels=labels, seed=1, quorum=2
    )
    votes, _ = hold(FakeRunner(store), recipe)
    columns = dict.fromkeys(EXAMPLES.names, IDS)
    write_table(tmp_path / "examples.parquet", columns, EXAMPLES)
    action = tally(recipe, votes=votes, examples=External("0", tmp_path / "examples.parquet"))
    paths = {
        role: store.path(value) if isinstance(value, Ref) else tmp_path / "examples.parquet"
        for role, value in action.inputs.items()
    }
    out = run_stage("tally", action.config, paths, tmp_path / "out")
    found = read_table(out / "labels.parquet", ["example_id", "system"])
    by_votes = {i: system for i, system in full(recipe).items() if system}
    made = dict(zip(*found.values(), strict=True))
    assert (made == by_votes) is (labels == "votes")
    assert Counter(made.values()) == Counter(by_votes.values())
    told = json.loads((out / "agreement.json").read_text())
    assert (told["judge"], told["curtailed"], told["sample"]) == ("z", True, len(AUDITED))


# What is held already


def test_the_switch_the_panel_and_more_teachers_buy_only_what_is_not_held(
    store: FakeStore,
) -> None:
    def buy(recipe: Recipe) -> list[tuple[str, str]]:
        runner = FakeRunner(store)
        votes, _ = hold(runner, recipe)
        assert labels_in(store, recipe, votes) == full(recipe)
        return runner.bought

    three = buy(recipe_of("abc", curtailed=True))
    five = buy(recipe_of("abcde", curtailed=True))
    assert three
    assert five
    assert not set(three) & set(five)
    rest = buy(recipe_of("abcde"))
    assert sorted([*three, *five, *rest]) == sorted((n, i) for n in "abcde" for i in IDS)
    assert rest
    for again in (
        recipe_of("abcde", curtailed=True),
        recipe_of("abcde", panel=["b", "d"], tie="drop"),
        recipe_of("abcde", panel=["a"], labels="random", seed=3),
        recipe_of("edcba", aggregate="dawid_skene"),
        recipe_of("abcde", again=1),
        recipe_of("abcd", tie="escalate", escalate_to="d"),
    ):
        assert buy(again) == []


def test_another_wording_is_another_vote(store: FakeStore) -> None:
    hold(FakeRunner(store), recipe_of("ab"))
    runner = FakeRunner(store)
    hold(runner, recipe_of("ab", role_play=False))
    assert len(runner.bought) == 2 * len(IDS)


# The judge


@pytest.mark.parametrize("curtailed", [False, True])
@pytest.mark.parametrize("names", ["abz", "abcz", "abcdz"])
def test_the_judge_is_asked_about_ties_and_nothing_else(
    store: FakeStore, names: str, curtailed: bool
) -> None:
    recipe = recipe_of(names, tie="escalate", escalate_to="z", curtailed=curtailed)
    runner = FakeRunner(store)
    votes, _ = hold(runner, recipe)
    panel = names.removesuffix("z")
    ties = [
        i for i in IDS if decide([by_hash(n, i) for n in panel], Rule("escalate")).for_the_judge
    ]
    assert ties
    assert [ids for name, ids in runner.asked if teacher_of(name) == "z"] == [ties]
    *others, last = (name for name, _ in runner.asked)
    assert last == f"vote[z/{max(map(number_of, others)) + 1}]"
    assert number_of(last) == 2 or curtailed
    assert labels_in(store, recipe, votes) == full(recipe)


def test_a_judge_without_ties_is_not_asked(store: FakeStore) -> None:
    recipe = recipe_of("abz", tie="escalate", escalate_to="z")
    runner = FakeRunner(store, script=lambda _name, _id: 2)
    votes, _ = hold(runner, recipe)
    assert votes["z"] == []
    assert {name for name, _ in runner.asked} == {"vote[a]", "vote[b]"}


# Budgets


def test_there_is_a_purse_only_where_there_is_a_cap(store: FakeStore) -> None:
    runner = FakeRunner(store)
    hold(runner, recipe_of("ab"))
    assert runner.purses == [None, None]


@pytest.mark.parametrize("cap", [{"budget_usd": 1000.0}, {"budget_votes": 1000}], ids=str)
def test_all_teachers_of_a_run_share_a_purse_that_ends_with_it(
    store: FakeStore, cap: dict[str, Any]
) -> None:
    runner = FakeRunner(store)
    recipe = recipe_of("abz", runtime=cap, tie="escalate", escalate_to="z", curtailed=True)
    hold(runner, recipe)
    (purse,) = set(runner.purses)
    assert purse is not None
    assert len(runner.purses) == 3
    assert Path(purse).parent == store.root / "tmp"
    assert not Path(purse).exists()


def test_the_purse_begins_with_what_earlier_runs_spent_on_these_examples(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(FakeRunner(store), recipe_of("ab"))
    hold(FakeRunner(FakeStore(store.root, ["other", *IDS[:3]])), recipe_of("bc"))
    made: list[dict[str, Any]] = []
    create = Purse.create

    def creating(path: Path, **sums: Any) -> Purse:
        made.append(sums)
        return create(path, **sums)

    monkeypatch.setattr(Purse, "create", creating)
    runtime = {"budget_usd": 500.0, "budget_votes": 700}
    hold(FakeRunner(FakeStore(store.root, IDS)), recipe_of("abc", runtime=runtime))
    votes = 2 * len(IDS) + 3
    assert made == [{"usd_cap": 500.0, "votes_cap": 700, "usd": 0.25 * votes, "votes": votes}]


def test_the_purse_is_gone_after_a_failure_too(store: FakeStore) -> None:
    runner = FakeRunner(store, broken="b")
    with pytest.raises(VoteError, match="teacher 'b' refuses"):
        hold(runner, recipe_of("ab", runtime={"budget_votes": 1000}))
    assert list((store.root / "tmp").glob("purse-*")) == []


def test_two_teachers_at_the_cap_give_one_message_with_what_is_missing(
    store: FakeStore,
) -> None:
    runner = FakeRunner(store, most={"a": 20, "c": 50})
    with pytest.raises(BudgetReached) as caught:
        hold(runner, recipe_of("abc", runtime={"budget_votes": 190}))
    said = str(caught.value)
    assert said.startswith("voting stops at the cap: 0 of 190 votes are spent, earlier runs")
    assert "missing: 170 votes (a 100, c 70); raise runtime.budget_votes and run again" in said
    assert said.count("the cap") == 1
    assert len(said.splitlines()) == 1
    assert len([x for x in runner.bought if x[0] == "b"]) == len(IDS), "the others end their own"

    again = FakeRunner(store)
    hold(again, recipe_of("abc", runtime={"budget_votes": 1000}))
    assert len(again.bought) == 170


def test_a_cap_in_curtailed_voting_tells_the_most_that_is_missing(store: FakeStore) -> None:
    runner = FakeRunner(store, most={"a": 20})
    with pytest.raises(BudgetReached) as caught:
        hold(runner, recipe_of("abc", curtailed=True, runtime={"budget_votes": 100}))
    held = {name: sum(who == name for who, _ in runner.bought) for name in "abc"}
    missing = {name: len(IDS) - count for name, count in held.items()}
    told = ", ".join(f"{name} {count}" for name, count in missing.items())
    assert f"at most {sum(missing.values())} votes ({told})" in str(caught.value)


def test_a_judge_at_the_cap_tells_the_ties_that_are_left(store: FakeStore) -> None:
    recipe = recipe_of(
        "abz", tie="escalate", escalate_to="z", runtime={"budget_votes": 2 * len(IDS) + 3}
    )
    ties = sum({by_hash("a", i), by_hash("b", i)} == {1, 2} for i in IDS)
    with pytest.raises(BudgetReached, match=rf"still missing: {ties - 3} votes \(z {ties - 3}\)"):
        hold(FakeRunner(store, most={"z": 3}), recipe)


# Plans


def test_a_plan_without_examples_has_one_action_a_teacher_of_the_panel(store: FakeStore) -> None:
    for voting in ({}, {"curtailed": True}, {"tie": "escalate", "escalate_to": "z"}):
        runner = FakeRunner(store, downloads=False)
        recipe = recipe_of("abz", **voting)
        votes, run = hold(runner, recipe, known=False)
        assert runner.asked == [(f"vote[{t.name}]", []) for t in recipe.panel]
        assert all(outcome.key is None for outcome in run.outcomes if outcome.stage == "vote")
        assert {name: len(rounds) for name, rounds in votes.items()} == {
            t.name: int(t in recipe.panel) for t in recipe.asked
        }


def test_a_plan_composes_what_the_held_votes_decide_and_no_more(store: FakeStore) -> None:
    recipe = recipe_of("abcz", curtailed=True, tie="escalate", escalate_to="z")
    real = FakeRunner(store)
    hold(real, recipe)
    names = [name for name, _ in real.asked]
    assert names[:3] == ["vote[a]", "vote[b]", "vote[c]"]
    assert names[3:] == [f"vote[{turn}/2]" for turn in "abc"] + ["vote[z/3]"]

    def planned(*held: str) -> list[str]:
        """The votes' actions of a plan, where those of these names have been carried out."""
        other = FakeStore(store.root)
        runner = FakeRunner(other, downloads=False)
        keys = dict(zip(names, store.done, strict=True))
        other.done = {keys[name]: store.done[keys[name]] for name in held}
        hold(runner, recipe)
        assert runner.bought == []
        assert set(runner.purses) == {None}
        return [name for name, _ in runner.asked]

    assert planned() == names[:3]
    assert planned("vote[a]", "vote[c]") == names[:3]
    assert planned(*names[:3]) == names[:-1]
    assert planned(*names[:-1]) == names
    assert planned(*names) == names


def test_a_capped_plan_makes_no_purse_and_no_ledger(store: FakeStore) -> None:
    runner = FakeRunner(store, downloads=False)
    hold(runner, recipe_of("abc", runtime={"budget_usd": 1.0}))
    assert runner.purses == [None] * 3
    assert list((store.root / "ledgers").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_run_that_finds_all_its_votes_reads_no_ledger(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(FakeRunner(store), recipe_of("abc"))

    def refuse(_path: Path) -> None:
        raise AssertionError("a ledger is read")

    monkeypatch.setattr("flows.budget.read_entries", refuse)
    again = FakeRunner(store)
    hold(again, recipe_of("abc", runtime={"budget_usd": 0.0}))
    assert (again.bought, set(again.purses)) == ([], {None})
