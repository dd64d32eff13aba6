"""Stages `sft` and `grpo` through trl: what moves, what keeps its bits, what is written."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tiny_inputs import MODEL, files, run_stage, steady_files, tiny_adapter, tiny_inputs, tiny_masks

from lorapar_core.answers import HASH, AnswerFormat
from lorapar_core.config import GrpoConfig, SftConfig
from lorapar_core.errors import TooFewExamples, TrainingError
from lorapar_core.parquet import read_table, write_table
from lorapar_core.partition import active_mask
from lorapar_core.prepare import EXAMPLES
from lorapar_core.rewards import registry
from lorapar_core.rewards.code import program_of
from lorapar_core.row_tests import as_reference, held_tests

SFT = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "batch_size": 2,
    "accumulation": 2,
    "max_steps": 2,
    "max_length": 256,
}
GRPO = {
    "prompt": "as_sft",
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "group_size": 4,
    "batch_size": 4,
    "accumulation": 2,
    "max_steps": 2,
    "max_completion_length": 8,
    "max_prompt_length": 256,
    "kl_coefficient": 0.0,
    "rewards": {"integer": 1.0, "tag_credit": 0.5},
}
NEEDED = ("base", "adapter", "masks", "labels", "tokens")


def varied(completion: str, reference: str, form: AnswerFormat) -> float:
    """A reward that random completions earn unequally."""
    return zlib.crc32(completion.encode()) % 97 / 97


@pytest.fixture(autouse=True)
def _unequal_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.REWARDS, "tag_credit", varied)


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("training"), tiny_model)


def train(out: Path, inputs: Mapping[str, Path], stage: str, **changed: Any) -> Path:
    """All of `changed` goes into the section but the stage's own fields, dropout and runtime."""
    top = {"system": 1, "data": "system", "epochs": 1.0, "model": MODEL}
    top |= {name: changed.pop(name) for name in ("system", "data", "epochs") if name in changed}
    dropout, runtime = changed.pop("dropout", 0.1), changed.pop("runtime", {})
    needed = {role: inputs[role] for role in NEEDED}
    if stage == "sft":
        section = SftConfig.model_validate({**SFT, **changed}).model_dump(exclude={"prompt"})
        config = {**top, "sft": section, "dropout": dropout}
    else:
        excluded = {"prompt", "system_prompt", "max_prompt_length"}
        section = GrpoConfig.model_validate({**GRPO, **changed}).model_dump(exclude=excluded)
        config = {**top, "grpo": section, "answer_format": "hash"}
        needed["examples"] = inputs["examples"]
        if "reference" in inputs:
            needed["reference"] = inputs["reference"]
    return run_stage(stage, config, needed, out, runtime=runtime)


def weights(directory: Path) -> dict[str, NDArray[np.float32]]:
    return load_file(directory / "adapter_model.safetensors")


def assert_only_active_moved(
    out: Path, inputs: Mapping[str, Path], system: int | str, *, least: float
) -> None:
    """Inactive elements keep their bits; of the active ones at least the share `least` moved."""
    start, end = weights(inputs["adapter"]), weights(out / "adapter")
    assert start.keys() == end.keys()
    moved = active = 0
    for key, bits in load_file(inputs["masks"]).items():
        mask = active_mask(bits, system)
        assert 0 < mask.sum() < mask.size
        changed = start[key].view(np.uint32) != end[key].view(np.uint32)
        assert not changed[~mask].any(), key
        moved, active = moved + int(changed.sum()), active + int(mask.sum())
    assert moved >= least * active


def test_a_tensor_without_active_elements_has_no_part_in_the_clip_norm(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """With a KL term, trl switches to its reference adapter and back, and PEFT then asks for every
    gradient again."""
    bits = load_file(inputs["masks"])
    some = sorted(bits)
    for key in some[::2]:
        bits[key][:] = 0
    masks = tmp_path / "masks.safetensors"
    save_file(bits, masks)
    few = {**inputs, "masks": masks}
    first = {"max_steps": 1, "kl_coefficient": 0.1, "max_grad_norm": 0.0}
    # At step 1 policy and reference are equal, so the KL's gradient is 0 and the norm that of KL 0.
    with_kl = metrics(train(tmp_path / "kl", few, "grpo", **first))[0]["grad_norm"]
    without = metrics(train(tmp_path / "no", few, "grpo", **{**first, "kl_coefficient": 0.0}))[0][
        "grad_norm"
    ]
    assert without > 0
    assert with_kl == pytest.approx(without, rel=1e-3)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("system", [1, 2, "all"])
def test_sft_moves_active_elements_only(
    inputs: dict[str, Path], tmp_path: Path, system: int | str
) -> None:
    out = train(tmp_path / "out", inputs, "sft", system=system)
    assert_only_active_moved(out, inputs, system, least=0.95)
    assert [row["step"] for row in metrics(out)] == [1, 2]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in metrics(out))


def test_sft_takes_every_example_once_an_epoch(inputs: dict[str, Path], tmp_path: Path) -> None:
    # 8 examples of System 1, 4 a step.
    for epochs, steps in ((1.0, 2), (2.0, 4)):
        out = train(tmp_path / f"{epochs}", inputs, "sft", max_steps=0, epochs=epochs)
        assert len(metrics(out)) == steps
    out = train(tmp_path / "all", inputs, "sft", max_steps=0, data="all")
    assert len(metrics(out)) == 4


def test_the_rest_of_an_epoch_is_a_step_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = train(tmp_path / "out", inputs, "sft", max_steps=0, batch_size=3, accumulation=2)
    assert len(metrics(out)) == 2
    big = train(tmp_path / "big", inputs, "sft", max_steps=0, accumulation=64)
    assert len(metrics(big)) == 1


def test_accumulated_is_as_at_once(inputs: dict[str, Path], tmp_path: Path) -> None:
    """A step of 4 examples is the same as 4 × 1, 2 × 2 or 1 × 4, but for rounding."""
    section = {"max_steps": 1, "dropout": 0.0, "max_grad_norm": 0.0}
    sizes = (1, 2, 4)
    rows = [
        metrics(
            train(tmp_path / f"{n}", inputs, "sft", batch_size=n, accumulation=4 // n, **section)
        )[0]
        for n in sizes
    ]
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-3)


def test_dropout_is_on_in_sft(inputs: dict[str, Path], tmp_path: Path) -> None:
    norms = {
        share: metrics(train(tmp_path / f"{share}", inputs, "sft", dropout=share))[0]["grad_norm"]
        for share in (0.0, 0.5)
    }
    assert abs(norms[0.5] / norms[0.0] - 1) > 0.02


def test_sft_learns_the_answers(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = train(tmp_path / "out", inputs, "sft", max_steps=12, epochs=6, learning_rate=3e-2)
    loss = [row["loss"] for row in metrics(out)]
    assert np.mean(loss[-3:]) < np.mean(loss[:3]) - 0.08


def test_the_first_loss_is_of_the_answer_tokens(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Against transformers' own loss on the same examples: the prompt has no part in it."""
    import torch

    from lorapar_core.examples import system_ids, token_rows
    from lorapar_core.loading import attach_adapter, load_base

    section = {"max_steps": 1, "batch_size": 8, "accumulation": 1, "dropout": 0.0}
    out = train(tmp_path / "out", inputs, "sft", **section)
    model = attach_adapter(load_base(inputs["base"], dtype="float32"), inputs["adapter"])
    rows = token_rows(inputs["tokens"], form="sft")
    total, count = 0.0, 0
    for example_id in system_ids(inputs["labels"], 1):
        prompt, answer = rows[example_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        before = logits[len(prompt) - 1 : -1]
        total += float(
            torch.nn.functional.cross_entropy(before, torch.tensor(answer)) * len(answer)
        )
        count += len(answer)
    assert metrics(out)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_grpo_moves_active_elements_only(
    inputs: dict[str, Path], tmp_path: Path, kl: float
) -> None:
    out = train(tmp_path / "out", inputs, "grpo", system=2, kl_coefficient=kl, max_steps=3)
    assert set(files(out)) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "completions.parquet",
        "figures.jsonl",
        "metrics.jsonl",
    }
    # A weight whose input was not active in any completion has no gradient, and decays only.
    assert_only_active_moved(out, inputs, 2, least=0.9)
    rows = metrics(out)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["reward_std"] > 0 for row in rows)
    if kl:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the start
        assert rows[-1]["kl"] > 0
    config = (out / "adapter" / "adapter_config.json").read_bytes()
    assert config == (inputs["adapter"] / "adapter_config.json").read_bytes()


def first_kl(out: Path, inputs: Mapping[str, Path], reference: str) -> float:
    changed = {"max_steps": 1, "kl_coefficient": 0.1, "kl_reference": reference}
    return metrics(train(out, inputs, "grpo", **changed))[0]["kl"]


def test_the_kl_reference_is_the_one_asked_for(
    inputs: dict[str, Path], tmp_path: Path, tiny_model: Path
) -> None:
    """At the first step the KL is 0 against what the stage starts from, and against nothing else.

    With B = 0 an adapter is the base model.
    """
    zero = tmp_path / "zero"
    shutil.copytree(inputs["adapter"], zero)
    none = {k: w * ("lora_A" in k) for k, w in weights(inputs["adapter"]).items()}
    save_file(none, zero / "adapter_model.safetensors", metadata={"format": "pt"})
    from_base = {**inputs, "adapter": zero}

    assert first_kl(tmp_path / "1", inputs, "start") == pytest.approx(0, abs=1e-7)
    assert first_kl(tmp_path / "2", from_base, "base") == pytest.approx(0, abs=1e-7)
    apart = first_kl(tmp_path / "3", inputs, "base")
    assert apart > 1e-5
    back = {**inputs, "reference": inputs["adapter"]}
    assert first_kl(tmp_path / "4", back, "initial") == pytest.approx(0, abs=1e-7)
    other = {**inputs, "reference": zero}
    assert first_kl(tmp_path / "5", other, "initial") == pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_kl_term_leaves_the_residual_base_as_it_is(
    inputs: dict[str, Path], tmp_path: Path, tiny_model: Path, init: str
) -> None:
    """trl alone takes the residual out once more for its reference, and moves the policy."""
    adapter = tiny_adapter(tmp_path / init, tiny_model, init=init)
    residual = {
        **inputs,
        "base": tmp_path / init / "base",
        "adapter": adapter,
        "masks": tiny_masks(tmp_path / "masks", adapter),
    }
    assert first_kl(tmp_path / "out", residual, "start") == pytest.approx(0, abs=1e-7)
    out = train(tmp_path / "trained", residual, "grpo", kl_coefficient=0.1)
    none = train(tmp_path / "none", residual, "grpo", kl_coefficient=0.0)
    one, other = (read_table(path / "completions.parquet") for path in (out, none))
    assert one["completion"][:8] == other["completion"][:8], "the policy is the same at the start"


def test_grpo_keeps_every_completion_with_its_rewards(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    out = train(tmp_path / "out", inputs, "grpo", system=2)
    table = read_table(out / "completions.parquet")
    names = ["step", "example_id", "completion", "reward_integer", "reward_tag_credit"]
    assert list(table) == names
    assert table["step"] == [0] * 8 + [1] * 8
    labels = read_table(inputs["labels"])
    system = dict(zip(labels["example_id"], labels["system"], strict=True))
    assert {system[i] for i in table["example_id"]} == {2}
    for start in range(0, 16, 4):
        assert len(set(table["example_id"][start : start + 4])) == 1  # a group is of one prompt
    assert len(set(table["example_id"])) == 4
    for completion, reward in zip(table["completion"], table["reward_tag_credit"], strict=True):
        assert reward == varied(completion, "", HASH)
    # What is logged is the mean of what is kept, with the recipe's weights.
    for step, row in enumerate(metrics(out)):
        means = {
            name: np.mean(table[f"reward_{name}"][8 * step : 8 * step + 8])
            for name in ("integer", "tag_credit")
        }
        expected = 1.0 * means["integer"] + 0.5 * means["tag_credit"]
        assert row["reward"] == pytest.approx(expected, rel=1e-5)


def test_grpo_samples_from_the_tokens_of_stage_prepare(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorapar_core.examples import token_rows
    from lorapar_core.grpo import MaskedGrpoTrainer

    seen: list[list[int]] = []
    tokenize = MaskedGrpoTrainer._tokenize_prompts

    def spy(self: Any, prompts: list[str]) -> Any:
        found = tokenize(self, prompts)
        seen.extend(found[0])
        return found

    monkeypatch.setattr(MaskedGrpoTrainer, "_tokenize_prompts", spy)
    train(tmp_path / "out", inputs, "grpo", max_steps=1)
    prompts = [prompt for prompt, _ in token_rows(inputs["tokens"], form="grpo").values()]
    assert len(seen) == 8
    assert all(row in prompts for row in seen)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_runs_write_the_same_bytes(inputs: dict[str, Path], tmp_path: Path, stage: str) -> None:
    import torch

    once = train(tmp_path / "one", inputs, stage)
    torch.rand(7)
    assert steady_files(train(tmp_path / "two", inputs, stage)) == steady_files(once)
    other = train(tmp_path / "other", inputs, stage, seed=1)
    assert (
        files(other)["adapter/adapter_model.safetensors"]
        != files(once)["adapter/adapter_model.safetensors"]
    )


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 8bit")
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_8_bit_adamw_moves_active_elements_only(
    inputs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    plain = train(tmp_path / "plain", inputs, stage)
    eight = train(tmp_path / "eight", inputs, stage, optimizer="adamw_8bit")
    assert_only_active_moved(eight, inputs, 1, least=0.9)
    assert files(eight) != files(plain)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_every_step_tells_its_speed(inputs: dict[str, Path], tmp_path: Path, stage: str) -> None:
    out = train(tmp_path / "out", inputs, stage)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert all("tokens_per_second" not in row for row in metrics(out))


def test_no_example_of_the_system(inputs: dict[str, Path], tmp_path: Path) -> None:
    from lorapar_core.tally import LABELS

    table = read_table(inputs["labels"])
    ones = {
        name: [v for v, s in zip(column, table["system"], strict=True) if s == 1]
        for name, column in table.items()
    }
    write_table(tmp_path / "labels.parquet", ones, LABELS)
    changed = {**inputs, "labels": tmp_path / "labels.parquet"}
    for stage in ("sft", "grpo"):
        with pytest.raises(TooFewExamples, match=r"no example of system 2 .* set the stage's data"):
            train(tmp_path / stage, changed, stage, system=2)


@pytest.mark.parametrize("steps", [0, 2])
def test_grpo_with_too_few_examples_for_a_step(
    inputs: dict[str, Path], tmp_path: Path, steps: int
) -> None:
    with pytest.raises(TrainingError, match="grpo has 8 prompts, and one generation takes 16"):
        train(tmp_path / "out", inputs, "grpo", accumulation=16, max_steps=steps)


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_reward_that_fails_stops_the_run(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(completion: str, reference: str, form: AnswerFormat) -> float:
        raise error("no such number")

    monkeypatch.setitem(registry.REWARDS, "integer", broken)
    failed = f"reward 'integer' failed with {error.__name__}: no such number, on example [0-9a-f]+"
    message = f"{failed}, the completion '"
    with pytest.raises(TrainingError, match=message):
        train(tmp_path / "out", inputs, "grpo")
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "1", [1.0], 1j, 10**400])
def test_a_reward_that_is_no_number_stops_the_run(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setitem(registry.REWARDS, "integer", lambda *_: value)
    with pytest.raises(
        TrainingError, match=r"reward 'integer' .* on example [0-9a-f]+, the completion '"
    ) as caught:
        train(tmp_path / "out", inputs, "grpo")
    assert len(str(caught.value).splitlines()) == 1
    assert not files(tmp_path / "out")


@pytest.mark.parametrize("value", [True, 1, np.float32(1.0), 1.0])
def test_every_kind_of_number_is_a_reward(value: Any) -> None:
    from lorapar_core.grpo import _score

    score = _score("mine", lambda *_: value, "", "", HASH, example="1")
    assert (type(score), score) == (float, 1.0)


def test_a_reward_of_ones_own_is_kept_under_its_path(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brief_rewards.py").write_text(
        "def brevity(completion, reference, form):\n    return 1 / (1 + len(completion))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = "brief_rewards:brevity"
    out = train(tmp_path / "out", inputs, "grpo", rewards={path: 2.0, "integer": 1.0})
    table = read_table(out / "completions.parquet")
    for completion, reward in zip(table["completion"], table[f"reward_{path}"], strict=True):
        assert reward == 1 / (1 + len(completion))


@pytest.mark.parametrize("mode", ["isolated", "limits"])
def test_a_rows_tests_are_run_as_the_runtime_says(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    ran: list[tuple[str, str]] = []

    def passes(program: str, tests: str, *, sandbox: str) -> bool:
        ran.append((tests, sandbox))
        return len(program) % 2 == 0

    monkeypatch.setattr("lorapar_core.rewards.code.passes", passes)
    table = read_table(inputs["examples"])
    table["reference"] = [as_reference(f"assert {n} + 1") for n in range(len(table["id"]))]
    write_table(tmp_path / "examples.parquet", table, EXAMPLES)
    changed = {**inputs, "examples": tmp_path / "examples.parquet"}
    rewards, runtime = {"execution": 1.0, "tag_credit": 0.5}, {"sandbox": mode}
    out = train(tmp_path / "out", changed, "grpo", rewards=rewards, runtime=runtime)
    kept = read_table(out / "completions.parquet")
    tests = dict(zip(table["id"], table["reference"], strict=True))
    assert ran == [(held_tests(tests[i]), mode) for i in kept["example_id"]]
    assert kept["reward_execution"] == [
        len(program_of(c, HASH)) % 2 == 0 for c in kept["completion"]
    ]


def test_a_loss_that_is_no_number_stops_the_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    broken = {key: np.full_like(w, np.nan) for key, w in weights(inputs["adapter"]).items()}
    save_file(broken, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = (inputs["adapter"] / "adapter_config.json").read_bytes()
    (adapter / "adapter_config.json").write_bytes(config)
    with pytest.raises(TrainingError, match="loss is nan at step 1; lower the learning rate"):
        train(tmp_path / "out", {**inputs, "adapter": adapter}, "sft")


def test_masks_of_another_adapter_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    masks = load_file(inputs["masks"])
    masks.pop(min(masks))
    save_file(masks, tmp_path / "masks.safetensors")
    with pytest.raises(TrainingError, match="masks don't fit the adapter: 1 keys differ"):
        train(tmp_path / "out", {**inputs, "masks": tmp_path / "masks.safetensors"}, "sft")
