"""What each action's key hangs on: its slice of the recipe and its inputs, and nothing else.

The real pipeline is composed by a runner that computes nothing. In `keys_of` an artifact's digest
is made of its action's name and role, so that a changed key shows what an action reads from the
recipe itself; with `flows=True` it is made of the action's key, so that changes travel onward.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import STAGES as ALL
from tiny_recipe import tiny_recipe, write_tiny_recipe

from artifacts import Ref
from flows.pipeline import pipeline
from flows.sweeps import SWEEPS, trials
from lorapar_core import stages
from lorapar_core.recipe import merge, parse_recipe
from lorapar_core.rounds import order
from lorapar_core.teachers.ballot import Ballot, ids_digest
from lorapar_core.teachers.tables import write_votes
from tasks import vote
from tasks.action import Action, Outcome

VOTES = {"vote[first]", "vote[second]"}
IDS = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(24)]
IDS_FIRST = "1d5" * 4
"""By what the store tells the artifact of ids from others."""
MOMENTS = {"moments[1/0]", "moments[2/0]"}
EVALUATIONS = {"evaluate[base]", "evaluate[sft]", "evaluate[grpo]"}
MODEL_READERS = {*VOTES, "initialize", *MOMENTS, "sft", "grpo", *EVALUATIONS}
FROM_PARTITION = {"partition", "sft", "evaluate[sft]", "grpo", "evaluate[grpo]", "report"}
FROM_SCORE = {"score[1]", "score[2]", "profile", *FROM_PARTITION}


class _Outputs(Mapping[str, Ref]):
    """A ref for any role that is asked for."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def __getitem__(self, role: str) -> Ref:
        digest = hashlib.sha256(f"{self._seed}/{role}".encode()).hexdigest()
        first = IDS_FIRST if role == "ids.json" else "0" * len(IDS_FIRST)
        return Ref(first + digest[len(first) :], 1, "file")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True)
class _Done:
    outcome: Outcome

    def result(self) -> Outcome:
        return self.outcome


class _Store:
    """Holds what a pipeline reads while it is composed."""

    root = Path("/nowhere")

    def __init__(self, ids: Sequence[str] = IDS) -> None:
        self._ids = ids
        self._tables: dict[str, Path] = {}

    def read_json(self, ref: Ref) -> Any:
        if ref.digest.startswith(IDS_FIRST):
            return list(self._ids)
        return {"train": 24, "test": 6, "counts": {"1": 99, "2": 99, "dropped": 0}}

    def path(self, ref: Ref) -> Path:
        return self._tables[ref.digest]

    def ledger(self, digest: str) -> Path:
        return self.root / digest

    def hold(self, ref: Ref, votes: Path) -> None:
        self._tables[ref.digest] = votes


@dataclass
class _Runner:
    """Says of every action that it is done; who votes says the same of every example."""

    flows: bool = False
    downloads: bool = False
    store: Any = field(default_factory=_Store)
    actions: dict[str, Action] = field(default_factory=dict)
    votes: Callable[[str, str], int] | None = None
    """Teacher and example -> the vote, where the composition reads votes."""
    folder: Path = Path("/nowhere")

    def submit(self, action: Action) -> _Done:
        assert action.key is not None
        assert action.name not in self.actions
        self.actions[action.name] = action
        outputs = _Outputs(action.key if self.flows else action.name)
        if action.stage == "vote" and self.votes:
            self._write(action, outputs)
        return _Done(Outcome(action.name, action.stage, action.key, "cached", 0.0, outputs))

    def _write(self, action: Action, outputs: _Outputs) -> None:
        assert self.votes is not None
        teacher, ids = action.config["teacher"]["name"], action.site["ids"]
        ballots = [Ballot(i, self.votes(teacher, i), "", "") for i in ids]
        folder = self.folder / hashlib.sha256(action.name.encode()).hexdigest()
        folder.mkdir(exist_ok=True)
        write_votes(folder, ballots, [], teacher=teacher, asked="0")
        self.store.hold(outputs["votes.parquet"], folder / "votes.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def write_model(path: Path, *, weights: str = "weights", tokenizer: str = "{}") -> Path:
    """A model as far as keys go: its files."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(weights)
    (path / "tokenizer.json").write_text(tokenizer)
    return path


def actions_of(
    model: Path, change: Mapping[str, Any] | None = None, *, flows: bool = False
) -> dict[str, Action]:
    runner = _Runner(flows)
    pipeline(parse_recipe(merge({"name": "tiny", **tiny_recipe(model)}, change or {})), runner)
    return runner.actions


def keys_of(
    model: Path, change: Mapping[str, Any] | None = None, *, flows: bool = False
) -> dict[str, str | None]:
    return {name: action.key for name, action in actions_of(model, change, flows=flows).items()}


def changed(old: Mapping[str, str | None], new: Mapping[str, str | None]) -> set[str]:
    """Names whose key is another one, or that only one side has."""
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def teachers(**changes: Any) -> dict[str, Any]:
    """The recipe's teachers, the first of them changed."""
    first, second = tiny_recipe("unused")["teachers"]
    return {"teachers": [{**first, **changes}, second]}


def test_the_pipeline_has_these_actions(model: Path) -> None:
    assert tuple(keys_of(model)) == ALL


def test_the_same_recipe_gives_the_same_keys(model: Path) -> None:
    assert keys_of(model, flows=True) == keys_of(model, flows=True)
    assert len(set(keys_of(model).values())) == len(ALL)


@pytest.mark.parametrize(
    ("change", "direct"),
    [
        # What people call it, and where and how it runs
        ({"name": "other"}, {"report"}),
        ({"description": "other"}, {"report"}),
        ({"runtime": {"device": "cuda"}}, set()),
        ({"runtime": {"threads": 7}}, set()),
        ({"runtime": {"child": "once", "children": 3}}, set()),
        ({"runtime": {"vote_concurrency": 1, "request_timeout_s": 1}}, set()),
        ({"runtime": {"vote_deadline_s": 1, "outage_s": 1}}, set()),
        ({"runtime": {"budget_usd": 1.5, "budget_votes": 100}}, set()),
        # Data
        ({"data": {"examples": 20}}, {"prepare", "report"}),
        ({"data": {"seed": 1}}, {"prepare", "report"}),
        ({"data": {"single_step_share": 0.1}}, {"prepare", "report"}),
        ({"data": {"test_examples": 5}}, {"prepare", "report"}),
        ({"data": {"test_source": "gsm8k", "revision": "x"}}, {"prepare", "report"}),
        # Voting
        (teachers(wording="introspective"), {"vote[first]", "report"}),
        (teachers(calibration="none"), {"tally", "report"}),
        ({"voting": {"role_play": False}}, {*VOTES, "report"}),
        ({"voting": {"target": "another model"}}, {*VOTES, "report"}),
        ({"voting": {"tie": "drop"}}, {"tally", "report"}),
        ({"voting": {"quorum": 2}}, {"tally", "report"}),
        ({"voting": {"abstentions": "drop"}}, {"tally", "report"}),
        ({"voting": {"aggregate": "dawid_skene"}}, {"tally", "report"}),
        ({"voting": {"labels": "random"}}, {"tally", "report"}),
        ({"voting": {"labels": "random", "seed": 1}}, {"tally", "report"}),
        ({"voting": {"seed": 1}}, {"report"}),
        ({"voting": {"again": 1}}, {*VOTES, "report"}),
        ({"voting": {"panel": ["first", "second"]}}, {"report"}),
        ({"voting": {"panel": ["first"]}}, {"vote[second]", "tally", "report"}),
        (teachers(requests_per_minute=9, tokens_per_minute=9, concurrency=9), set()),
        (teachers(input_usd=1, output_usd=2), set()),
        # Model and adapter
        ({"model": {"dtype": "bfloat16"}}, {*MODEL_READERS, "report"}),
        ({"model": {"attention": "eager"}}, {*MODEL_READERS, "report"}),
        ({"model": {"quantization": "nf4"}}, {*MODEL_READERS} - {"initialize"} | {"report"}),
        ({"model": {"quantization": "none"}}, set()),
        ({"model": {"chat_template": "{{ messages }}"}}, {"prepare", *VOTES, "report"}),
        ({"lora": {"r": 4}}, {"initialize", "report"}),
        ({"lora": {"seed": 1}}, {"initialize", "report"}),
        ({"lora": {"modules": "QKV"}}, {"initialize", "report"}),
        ({"lora": {"dropout": 0.0}}, {"sft", "report"}),
        # Importance and partition
        ({"importance": {"examples": 5}}, {*MOMENTS, "report"}),
        ({"importance": {"batch_tokens": 99}}, {*MOMENTS, "report"}),
        ({"importance": {"seed": 1}}, {*MOMENTS, "report"}),
        ({"importance": {"shard_size": 50}}, {"report"}),
        ({"partition": {"theta": 0.5}}, {"partition", "report"}),
        ({"partition": {"alpha": 0.5}}, {"partition", "report"}),
        ({"partition": {"beta": 0.5}}, {"partition", "report"}),
        ({"partition": {"choice": "random"}}, {"partition", "report"}),
        ({"partition": {"seed": 1}}, {"report"}),
        ({"runtime": {"vllm_mode": "server", "vllm_server": "other:1"}}, set()),
        ({"runtime": {"vllm_memory_share": 0.5, "vllm_tensor_parallel": 2}}, set()),
        # Training
        ({"grpo": {"engine": "transformers"}}, set()),
        (
            {"grpo": {"engine": "vllm"}, "runtime": {"device": "auto", "child": "once"}},
            {"grpo", "report"},
        ),
        ({"sft": {"learning_rate": 0.1}}, {"sft", "report"}),
        ({"sft": {"seed": 1}}, {"sft", "report"}),
        ({"sft": {"batch_size": 2}}, {"sft", "report"}),
        ({"sft": {"optimizer": "adamw_8bit"}}, {"sft", "report"}),
        ({"sft": {"max_length": 128}}, {"prepare", "sft", "report"}),
        ({"sft": {"prompt": "chat"}}, {"prepare", "report"}),
        ({"grpo": {"learning_rate": 0.1}}, {"grpo", "report"}),
        ({"grpo": {"rewards": {"correctness": 1.0}}}, {"grpo", "report"}),
        ({"grpo": {"kl_coefficient": 0.1}}, {"grpo", "report"}),
        ({"grpo": {"kl_reference": "initial"}}, {"grpo", "report"}),
        ({"grpo": {"num_iterations": 2}}, {"grpo", "report"}),
        ({"grpo": {"optimizer": "adamw_8bit"}}, {"grpo", "report"}),
        ({"grpo": {"system_prompt": "Answer."}}, {"prepare", "report"}),
        ({"grpo": {"max_prompt_length": 100}}, {"prepare", "report"}),
        ({"grpo": {"prompt": "tags"}}, {"prepare", "grpo", "evaluate[grpo]", "report"}),
        # Evaluation
        ({"evaluation": {"max_new_tokens": 9}}, {*EVALUATIONS, "report"}),
        ({"evaluation": {"batch_tokens": 9}}, {*EVALUATIONS, "report"}),
        ({"evaluation": {"base": False}}, {"evaluate[base]", "report"}),
    ],
    ids=str,
)
def test_who_reads_a_field(model: Path, change: dict[str, Any], direct: set[str]) -> None:
    if change.get("data", {}).get("test_source"):
        pytest.importorskip("huggingface_hub")
    assert changed(keys_of(model), keys_of(model, change)) == direct


@pytest.mark.parametrize(
    ("change", "onward"),
    [
        ({"partition": {"theta": 0.5}}, FROM_PARTITION),
        ({"importance": {"seed": 1}}, {*MOMENTS, *FROM_SCORE}),
        ({"grpo": {"seed": 1}}, {"grpo", "evaluate[grpo]", "report"}),
        ({"lora": {"dropout": 0.0}}, {"sft", "evaluate[sft]", "grpo", "evaluate[grpo]", "report"}),
        ({"lora": {"seed": 1}}, set(ALL) - {"prepare", *VOTES, "tally", "evaluate[base]"}),
        (
            {"voting": {"tie": "drop"}},
            set(ALL) - {"prepare", *VOTES, "initialize", "evaluate[base]"},
        ),
        # A vote is keyed by its examples' ids, which the store here says are the same.
        ({"data": {"seed": 1}}, set(ALL) - {"initialize", *VOTES}),
        ({"evaluation": {"max_new_tokens": 9}}, {*EVALUATIONS, "report"}),
    ],
    ids=str,
)
def test_what_is_computed_again(model: Path, change: dict[str, Any], onward: set[str]) -> None:
    """Every artifact of a changed action is taken to be another one."""
    assert changed(keys_of(model, flows=True), keys_of(model, change, flows=True)) == onward


@pytest.mark.parametrize("stage", sorted({name.partition("[")[0] for name in ALL}))
def test_a_raised_version_changes_that_stages_keys(
    model: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(model)
    old = stages.STAGES[stage]
    monkeypatch.setitem(stages.STAGES, stage, stages.Stage(old.version + 1, old.module))
    assert changed(before, keys_of(model)) == {n for n in ALL if n.partition("[")[0] == stage}


# Votes are what costs money


def far(**changes: Any) -> dict[str, Any]:
    """One teacher at an address of its own."""
    fields = {
        "name": "far",
        "model": "openai/some-model",
        "api_base": "https://api.example.org/v1",
        "api_key_env": "FAR_KEY",
    }
    return {"teachers": [{**fields, **changes}]}


@pytest.mark.parametrize(
    ("change", "asks_again"),
    [
        ({"api_key_env": "OTHER_KEY"}, False),
        ({"api_key_env": ""}, False),
        ({"header_envs": {"X-Tenant": "TENANT"}}, False),
        ({"requests_per_minute": 10}, False),
        ({"tokens_per_minute": 1000.5}, False),
        ({"concurrency": 3}, False),
        ({"input_usd": 1, "output_usd": 2}, False),
        ({"api_base": "https://api.example.org/v2"}, False),
        ({"api_base": "http://api.example.org/other/v1"}, False),
        ({"api_base": "https://elsewhere.example.org/v1"}, True),
        ({"api_base": "https://api.example.org:8443/v1"}, True),
        ({"api_base": ""}, True),
        ({"model": "openai/other-model"}, True),
        ({"max_tokens": 99}, True),
        ({"temperature": 0.5}, True),
        ({"temperature": None}, True),
        ({"reply": "logprobs"}, True),
        ({"reply": "text"}, True),
        ({"wording": "examiner"}, True),
    ],
    ids=str,
)
def test_what_asks_a_remote_teacher_again(
    model: Path, change: dict[str, Any], asks_again: bool
) -> None:
    """What doesn't asks nobody again, and what asks writes to a ledger of its own."""
    before, after = (actions_of(model, far(**fields)) for fields in ({}, change))
    keys = [{name: action.key for name, action in found.items()} for found in (before, after)]
    assert ("vote[far]" in changed(*keys)) is asks_again
    assert (before["vote[far]"].ledger != after["vote[far]"].ledger) is asks_again


@pytest.mark.parametrize(
    ("change", "other_ledger"),
    [
        ({"voting": {"again": 1}}, False),
        ({"voting": {"tie": "drop", "quorum": 1, "labels": "random"}}, False),
        ({"voting": {"curtailed": True}}, False),
        ({"data": {"examples": 20}}, False),
        ({"runtime": {"budget_usd": 1, "budget_votes": 2, "vote_concurrency": 1}}, False),
        ({"runtime": {"vote_deadline_s": 1, "outage_s": 1, "request_timeout_s": 1}}, False),
        ({"name": "other"}, False),
        ({"model": {"dtype": "bfloat16"}}, False),
        ({"voting": {"role_play": False}}, True),
        ({"voting": {"target": "another model"}}, True),
    ],
    ids=str,
)
def test_what_a_remote_teacher_has_said_is_found_again(
    model: Path, tmp_path: Path, change: dict[str, Any], other_ledger: bool
) -> None:
    one, two = (
        rounds_of(model, tmp_path, merge(far(input_usd=0, output_usd=0), fields))
        for fields in ({}, change)
    )
    assert (one["vote[far]"].ledger != two["vote[far]"].ledger) is other_ledger


def test_a_teacher_by_another_name_is_asked_anew(model: Path) -> None:
    """So that one model may vote twice; and two of the same name are one."""
    one, other = (actions_of(model, far(name=name))[f"vote[{name}]"] for name in ("far", "farther"))
    assert one.key != other.key
    assert one.ledger != other.ledger
    differ = {name for name in one.config if one.config[name] != other.config[name]}
    assert differ == {"teacher", "asked"}
    fields = [far()["teachers"][0], {**far()["teachers"][0], "name": "twin"}]
    twins = actions_of(model, {"teachers": fields})
    assert twins["vote[far]"].ledger == one.ledger
    assert twins["vote[twin]"].ledger != one.ledger


def test_whom_nobody_plays_asks_nobody_again(model: Path) -> None:
    """Without role play the target stands in no prompt, for local teachers as for far ones."""
    near = {"name": "near", "provider": "local"}
    change = {"teachers": [*far()["teachers"], near], "voting": {"role_play": False}}
    before = actions_of(model, change)
    after = actions_of(model, merge(change, {"voting": {"target": "another model"}}))
    keys = [{name: action.key for name, action in found.items()} for found in (before, after)]
    assert changed(*keys) == {"report"}, "which tells the whole recipe"
    for name in ("vote[far]", "vote[near]"):
        assert before[name].ledger == after[name].ledger
        assert before[name].config["target"] == after[name].config["target"] == ""
    played = actions_of(model, merge(change, {"voting": {"role_play": True}}))
    assert played["vote[far]"].config["target"] == "a tiny model"


def test_a_changed_way_to_score_asks_local_teachers_again_and_no_other(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {"teachers": [*far()["teachers"], {"name": "near", "provider": "local"}]}
    before = actions_of(model, change)
    assert before["vote[near]"].config["scoring"] == vote.LOCAL_VERSION
    assert "scoring" not in before["vote[far]"].config
    monkeypatch.setattr(vote, "LOCAL_VERSION", vote.LOCAL_VERSION + 1)
    after = actions_of(model, change)
    keys = [{name: action.key for name, action in found.items()} for found in (before, after)]
    assert changed(*keys) == {"vote[near]"}
    assert before["vote[near]"].ledger != after["vote[near]"].ledger


def test_the_ledger_is_the_same_for_other_ids_and_the_artifact_is_not(
    model: Path, tmp_path: Path
) -> None:
    one, two, turned = (
        rounds_of(model, tmp_path, far(), ids=ids)["vote[far]"] for ids in (IDS, IDS[:5], IDS[::-1])
    )
    assert one.ledger == two.ledger == turned.ledger
    assert len({one.key, two.key, turned.key}) == 3
    assert len(one.ledger) == 64


def test_a_prompt_that_is_worded_anew_asks_again_under_a_new_ledger(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorapar_core.teachers import prompts

    before = actions_of(model, far())["vote[far]"]
    monkeypatch.setattr(prompts, "_ASK", "Which?")
    after = actions_of(model, far())["vote[far]"]
    assert before.key != after.key
    assert before.ledger != after.ledger


def test_a_local_model_of_other_content_has_another_ledger(model: Path, tmp_path: Path) -> None:
    moved = write_model(tmp_path / "elsewhere" / "model")
    other = write_model(tmp_path / "other" / "model", weights="other")
    ledgers = [actions_of(path)["vote[first]"].ledger for path in (model, moved, other)]
    assert ledgers[0] == ledgers[1] != ledgers[2]


def rounds_of(
    model: Path,
    tmp_path: Path,
    change: Mapping[str, Any],
    *,
    ids: Sequence[str] = IDS,
    votes: Callable[[str, str], int] = lambda _teacher, _example: 1,
) -> dict[str, Action]:
    """The actions of a recipe whose rounds hang on the votes."""
    runner = _Runner(store=_Store(ids), votes=votes, folder=tmp_path)
    pipeline(parse_recipe(merge({"name": "tiny", **tiny_recipe(model)}, change)), runner)
    return runner.actions


def several(count: int, **voting: Any) -> dict[str, Any]:
    names = "abcde"[:count]
    return {
        "teachers": [{"name": name, "model": f"openai/{name}"} for name in names],
        "voting": {"target": "a tiny model", **voting},
    }


def test_curtailed_rounds_are_called_by_their_number_and_keyed_by_whom_they_ask_about(
    model: Path, tmp_path: Path
) -> None:
    def vote(teacher: str, example: str) -> int:
        """Whoever is asked first and second differ, on some examples."""
        return 1 + order(example, "abc").index(teacher) % 2 if example in IDS[:6] else 1

    actions = rounds_of(model, tmp_path, several(3, curtailed=True), votes=vote)
    names = [name for name in actions if name.startswith("vote[")]
    assert names[:3] == ["vote[a]", "vote[b]", "vote[c]"]
    assert set(names[3:]) <= {"vote[a/2]", "vote[b/2]", "vote[c/2]"}
    assert names[3:]
    asked = {name: actions[name].site["ids"] for name in names}
    for name, ids in asked.items():
        assert actions[name].config["ids"] == ids_digest(ids)
        assert actions[name].units == len(ids)
    for teacher in "abc":
        twice = [i for n, ids in asked.items() if n[5] == teacher for i in ids]
        assert len(twice) == len(set(twice))
        ledgers = {actions[n].ledger for n in names if n[5] == teacher}
        assert len(ledgers) == 1
    roles = {role for role in actions["tally"].inputs if role.startswith("votes/")}
    assert len(roles) == len(names)
    assert "votes/a/000000" in roles


def test_the_tally_is_another_one_where_voting_was_curtailed(model: Path, tmp_path: Path) -> None:
    full, part = (
        rounds_of(model, tmp_path, several(3, curtailed=curtailed)) for curtailed in (False, True)
    )
    assert full["tally"].key != part["tally"].key
    assert full["vote[a]"].ledger == part["vote[a]"].ledger
    assert full["vote[a]"].key != part["vote[a]"].key


def test_a_remote_teachers_votes_do_not_hang_on_the_local_model(
    model: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", weights="other")
    again = changed(keys_of(model, far()), keys_of(other, far()))
    assert "vote[far]" not in again
    assert {"initialize", "sft"} <= again


def test_one_more_teacher_leaves_the_others_votes(model: Path) -> None:
    third = {"name": "third", "provider": "local", "wording": "introspective"}
    more = {"teachers": [*tiny_recipe(model)["teachers"], third]}
    assert changed(keys_of(model), keys_of(model, more)) == {"vote[third]", "tally", "report"}


def test_more_importance_examples_score_new_shards_only(model: Path) -> None:
    few, many = (
        {"importance": {"shard_size": 2, "examples": n}, "data": {"examples": 24}} for n in (4, 6)
    )
    old, new = keys_of(model, few), keys_of(model, many)
    assert set(new) - set(old) == {"moments[1/2]", "moments[2/2]"}
    assert changed(old, new) == {"moments[1/2]", "moments[2/2]", "score[1]", "score[2]", "report"}


# Sweeps


def keys_of_sweep(model: Path, folder: Path, name: str, **overrides: Any) -> dict[str, set[str]]:
    """Stage -> the different keys that a sweep's trials come to, with seeds 0, 1 and 2."""
    recipe = write_tiny_recipe(folder / "tiny.yaml", model)
    found: dict[str, set[str]] = {}
    for trial in trials(SWEEPS[name], recipe, seeds=(0, 1, 2), overrides=overrides):
        runner = _Runner(flows=True)
        pipeline(trial.recipe, runner)
        for action in runner.actions.values():
            found.setdefault(action.stage, set()).add(str(action.key))
    return found


def test_a_sweep_of_theta_scores_once_a_seed_and_asks_no_teacher_again(
    model: Path, tmp_path: Path
) -> None:
    counts = {s: len(keys) for s, keys in keys_of_sweep(model, tmp_path, "theta").items()}
    points = 10 + 9  # each theta by importance, and below 1 at random
    assert counts == {
        "prepare": 1,
        "vote": 2,
        "tally": 1,
        "initialize": 3,
        "moments": 2 * 3,
        "score": 2 * 3,
        "profile": 3,
        "partition": 3 * points,
        "sft": 3 * points,
        "evaluate": 3 * points + 1,
        "report": 3 * points,
    }


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("shared", {"vote": 2, "moments": 6, "partition": 27, "grpo": 27}),
        ("modules", {"vote": 2, "initialize": 9, "moments": 18, "sft": 9}),
        ("order", {"vote": 2, "moments": 6, "partition": 3, "sft": 6, "grpo": 6}),
    ],
)
def test_a_sweep_shares_what_lies_above_the_field_that_it_moves(
    model: Path, tmp_path: Path, name: str, counts: dict[str, int]
) -> None:
    found = keys_of_sweep(model, tmp_path, name)
    assert {stage: len(found[stage]) for stage in counts} == counts
    assert len(found["prepare"]) == len(found["tally"]) == 1


def test_a_sweep_of_labels_asks_each_teacher_once_for_each_way_of_asking(
    model: Path, tmp_path: Path
) -> None:
    third = {"name": "third", "provider": "local", "wording": "introspective"}
    teachers = [*tiny_recipe(model)["teachers"], third]
    found = keys_of_sweep(model, tmp_path, "labels", teachers=teachers)
    assert len(found["vote"]) == 3 + 1, "the first one also without role play"
    assert len(found["tally"]) == 4 + 3, "the random partition is dealt anew with every seed"


# Content, not place


def test_the_models_place_is_in_no_key_and_its_content_is(model: Path, tmp_path: Path) -> None:
    moved = write_model(tmp_path / "elsewhere" / "model")
    weights = write_model(tmp_path / "weights" / "model", weights="others")
    tokenizer = write_model(tmp_path / "tokenizer" / "model", tokenizer="[]")
    before = keys_of(model)
    assert changed(before, keys_of(moved)) == set()
    assert changed(before, keys_of(weights)) == {*MODEL_READERS, "report"}
    assert changed(before, keys_of(tokenizer)) == {"prepare", *MODEL_READERS, "report"}


def test_a_model_that_is_written_anew_is_another_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    before = keys_of(path)
    (path / "model.safetensors").write_text("changed")
    assert changed(before, keys_of(path)) >= MODEL_READERS


@pytest.mark.parametrize("role", ["source", "test_source"])
def test_a_data_files_place_is_in_no_key_and_its_content_is(
    model: Path, tmp_path: Path, role: str
) -> None:
    def keys(folder: str, text: str) -> dict[str, str | None]:
        file = tmp_path / folder / "mine.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return keys_of(model, {"data": {role: str(file)}})

    before = keys("here", '{"prompt": "1 + 1?", "answer": "2"}\n')
    assert changed(before, keys("there", '{"prompt": "1 + 1?", "answer": "2"}\n')) == set()
    assert changed(before, keys("here", '{"prompt": "1 + 2?", "answer": "3"}\n')) == {"prepare"}


def test_a_relative_path_and_an_absolute_one_are_the_same_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text("prompt,answer\n1 + 1?,2\n")
    monkeypatch.chdir(tmp_path)
    near, far = (
        keys_of(model, {"data": {"source": source}})
        for source in ("mine.csv", str(tmp_path / "mine.csv"))
    )
    assert changed(near, far) == set()


def test_a_new_name_asks_teachers_again_only_where_their_prompt_tells_it(
    model: Path, tmp_path: Path
) -> None:
    renamed = write_model(tmp_path / "another-name")
    assert changed(keys_of(model), keys_of(renamed)) == {"report"}
    untold = {"voting": {"target": ""}}
    assert changed(keys_of(model, untold), keys_of(renamed, untold)) == {*VOTES, "report"}

    def keys(name: str) -> dict[str, str | None]:
        file = tmp_path / name
        file.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
        return keys_of(model, {"data": {"source": str(file)}})

    assert changed(keys("one.jsonl"), keys("two.jsonl")) == {"report"}


def test_a_relative_test_set_is_the_same_in_the_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page tells the file's name, and where it lies is nobody's business."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.csv").write_text("prompt,answer\n1 + 1?,2\n")
    monkeypatch.chdir(tmp_path)
    told = {
        source: actions_of(model, {"data": {"test_source": source}})["report"].config
        for source in ("folder/mine.csv", "./folder/mine.csv", str(tmp_path / "folder/mine.csv"))
    }
    assert {config["recipe"]["data"]["test_source"] for config in told.values()} == {"mine.csv"}
    hub = actions_of(model, {"data": {"test_source": "hub:owner/name"}})["report"].config
    assert hub["recipe"]["data"]["test_source"] == "hub:owner/name"


def values(thing: Any) -> Iterator[Any]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield key
            yield from values(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from values(value)
    else:
        yield thing


def test_no_key_holds_a_path_a_query_or_a_keys_name(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    secret = "http://api.example.org/v1/secret"
    change = {"data": {"source": str(file), "test_source": f"file://{file}"}}
    change |= far(api_base=secret)
    change["teachers"].append({"name": "near", "provider": "local", "model": str(model)})
    for action in actions_of(model, change).values():
        for value in map(str, values(action.config)):
            assert not value.startswith("/"), (action.name, value)
            for word in (str(tmp_path), str(model), "secret", "FAR_KEY"):
                assert word not in value, (action.name, value)


def test_a_key_hangs_on_no_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys_of(model, flows=True)
    for name in ("HOME", "USER", "HOSTNAME", "LORAPAR_STORE", "FAR_KEY"):
        monkeypatch.setenv(name, "/other")
    assert keys_of(model, flows=True) == before
    assert "FAR_KEY" in os.environ


@pytest.mark.parametrize("name", ALL)
def test_every_input_is_in_the_key(model: Path, name: str) -> None:
    """Each role alone gives another key, and so does the role's own name."""
    action = actions_of(model)[name]
    assert action.inputs
    replace: Callable[[str], Action] = lambda role: Action(  # noqa: E731
        action.stage, name, action.config, {**action.inputs, role: Ref("0" * 64, 1, "file")}
    )
    keys = {action.key, *(replace(role).key for role in [*action.inputs, "another"])}
    assert len(keys) == len(action.inputs) + 2
