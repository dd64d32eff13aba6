"""Stage `grpo`: group-relative policy optimization of a system's active elements, through trl.

Prompts come tokenised from stage `prepare`; trl sees their text and gets those very tokens.
Dropout is off (trl samples in training mode). With a KL term the reference is the adapter that the
stage starts from.

config: grpo, model, system, data, epochs, answer_format. Writes `adapter/`, `metrics.jsonl` and
`completions.parquet` (every completion with its rewards).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from trl import GRPOConfig as TrlGrpoConfig
from trl import GRPOTrainer

from lorapar_core.answers import answer_format
from lorapar_core.config import GrpoConfig
from lorapar_core.errors import TrainingError
from lorapar_core.examples import token_rows
from lorapar_core.label_logprobs import LabelLogProbs
from lorapar_core.loading import load_tokenizer
from lorapar_core.optimizers import optimizer_class
from lorapar_core.parquet import read_table, write_table
from lorapar_core.rewards import REWARDS
from lorapar_core.rollout import Rollout
from lorapar_core.spec import Spec
from lorapar_core.training import (
    MaskedTraining,
    Progress,
    common_arguments,
    finish,
    open_setting,
    training_ids,
)

RewardFunction = Callable[..., list[float]]


class MaskedGrpoTrainer(MaskedTraining, Rollout, LabelLogProbs, GRPOTrainer):
    """GRPOTrainer that trains active elements only, on prompts tokenised beforehand."""

    prompt_tokens: dict[str, list[int]]
    """Prompt text -> its tokens."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompt_tokens[prompt] for prompt in prompts], None, {}


def run(spec: Spec, out: Path) -> None:
    section = GrpoConfig.model_validate(spec.config["grpo"])
    setting = open_setting(spec, dropout=0.0)
    tokenizer = load_tokenizer(spec.inputs["base"])
    rewards = {name: weight for name, weight in sorted(section.rewards.items()) if weight}
    arguments = TrlGrpoConfig(
        **common_arguments(spec, section, setting),
        num_generations=section.group_size,
        max_completion_length=section.max_completion_length,
        beta=section.kl_coefficient,
        temperature=section.temperature,
        top_p=section.top_p,
        epsilon=section.clip_epsilon,
        loss_type=section.loss_type,
        scale_rewards=section.scale_rewards,
        use_bias_correction_kl=False,
        mask_truncated_completions=False,
        disable_dropout=True,
        num_iterations=1,
        steps_per_generation=section.accumulation,
        reward_weights=list(rewards.values()),
        use_vllm=False,
        shuffle_dataset=True,
    )
    kept = Completions()
    progress = Progress()
    rows, prompt_tokens = _rows(spec, tokenizer)
    _refuse_too_few(len(rows), section, name=spec.name)
    trainer = MaskedGrpoTrainer(
        model=setting.model,
        args=arguments,
        reward_funcs=[kept.reward(name, spec.config["answer_format"]) for name in rewards],
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.masks = setting.masks
    trainer.inner = optimizer_class(section.optimizer)
    trainer.prompt_tokens = prompt_tokens
    trainer.train()
    kept.write(out / "completions.parquet", list(rewards))
    finish(spec, setting, progress, out)


class Completions:
    """Every completion that was rewarded, in order, with each reward."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {"step": [], "example_id": [], "completion": []}
        self._rewards: dict[str, list[float]] = {}

    def reward(self, name: str, how: str) -> RewardFunction:
        """trl's form of the reward `name`; it keeps what it rewards."""
        score, form = REWARDS[name], answer_format(how)

        def reward(
            *,
            completions: list[str],
            reference: list[str],
            example_id: list[str],
            trainer_state: Any,
            **_: Any,
        ) -> list[float]:
            pairs = zip(completions, reference, strict=True)
            values = [_score(name, score, c, r, form) for c, r in pairs]
            if self._rewards.setdefault(name, []) is next(iter(self._rewards.values())):
                self._columns["step"] += [trainer_state.global_step] * len(completions)
                self._columns["example_id"] += example_id
                self._columns["completion"] += completions
            self._rewards[name] += values
            return values

        reward.__name__ = name
        return reward

    def write(self, path: Path, names: list[str]) -> None:
        schema = pa.schema(
            [("step", pa.int32()), ("example_id", pa.string()), ("completion", pa.string())]
            + [(f"reward_{name}", pa.float64()) for name in names]
        )
        rewards = {f"reward_{name}": self._rewards[name] for name in names}
        write_table(path, {**self._columns, **rewards}, schema)


def _score(name: str, score: Any, completion: str, reference: str, form: Any) -> float:
    try:
        return float(score(completion, reference, form))
    except Exception as error:
        raise TrainingError(
            f"reward {name!r} failed with {type(error).__name__}: {error}, on the completion "
            f"{completion[:200]!r}"
        ) from error


def _refuse_too_few(prompts: int, section: GrpoConfig, *, name: str) -> None:
    """Raise if there is no step's worth of prompts: trl takes whole steps only, and drops the rest.

    Raises:
        TrainingError: as said.
    """
    needed = section.batch_size * section.accumulation // section.group_size
    if prompts < needed:
        raise TrainingError(
            f"{name} has {prompts} prompts, and an optimizer step takes {needed} (batch_size × "
            "accumulation / group_size); lower them or take more data"
        )


def _rows(spec: Spec, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Prompt text, reference and id of each training example; and each text's tokens."""
    tokens = token_rows(spec.inputs["tokens"], form="grpo")
    examples = read_table(spec.inputs["examples"], ["id", "reference"])
    reference = dict(zip(examples["id"], examples["reference"], strict=True))
    ids = training_ids(spec, tokens)
    texts = {i: tokenizer.decode(tokens[i][0]) for i in ids}
    rows = [{"prompt": texts[i], "reference": reference[i], "example_id": i} for i in ids]
    return rows, {texts[i]: tokens[i][0] for i in ids}
