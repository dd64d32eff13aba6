"""Stage `grpo`: group-relative policy optimization of a system's active elements, through trl.

Prompts come tokenised from stage `prepare`; trl sees their text and gets those very tokens.
Dropout is off (trl samples in training mode). The KL term's reference is the adapter in the input
`reference`; without one it is what `kl_reference` says, the base model or the adapter that the
stage starts from.

config: grpo, model, system, data, epochs, answer_format. Writes `adapter/`, `metrics.jsonl`,
`figures.jsonl` and `completions.parquet` (every completion with its rewards).
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import GRPOConfig as TrlGrpoConfig
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from lorapar_core import ranks
from lorapar_core.answers import AnswerFormat, answer_format
from lorapar_core.clock import Clocked
from lorapar_core.completions import Completions
from lorapar_core.config import GrpoConfig
from lorapar_core.engines import engine_arguments
from lorapar_core.errors import TrainingError
from lorapar_core.examples import token_rows
from lorapar_core.figures import Figures
from lorapar_core.journal import Journal
from lorapar_core.label_logprobs import LabelLogProbs
from lorapar_core.loading import (
    ADAPTER_WEIGHTS,
    adapter_parameters,
    load_tensors,
    load_tokenizer,
    set_weights,
)
from lorapar_core.lora_branch import FusedBranches
from lorapar_core.optimizers import optimizer_class
from lorapar_core.parquet import read_table
from lorapar_core.resume import ExactResume, run_training
from lorapar_core.rewards.registry import Reward, reward_named
from lorapar_core.rollout import Rollout
from lorapar_core.rollout_log import ReplayedRollouts, open_log
from lorapar_core.sharding import ShardedBase
from lorapar_core.spec import Spec
from lorapar_core.training import (
    MaskedTraining,
    common_arguments,
    finish,
    open_setting,
    training_ids,
)

if TYPE_CHECKING:
    from peft import PeftModel

RewardFunction = Callable[..., list[float]]


class EpochSampler(RepeatSampler):
    """trl's order of prompts, another each epoch, and the same again after a resume."""

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate as each epoch begins."""
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch)


class MaskedGrpoTrainer(
    ReplayedRollouts,
    ExactResume,
    Clocked,
    MaskedTraining,
    ShardedBase,
    Rollout,
    LabelLogProbs,
    FusedBranches,
    GRPOTrainer,
):
    """GRPOTrainer that trains active elements only, on prompts tokenised beforehand."""

    prompt_tokens: dict[str, list[int]]
    """Prompt text -> its tokens."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompt_tokens[prompt] for prompt in prompts], None, {}

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        args = self.args
        return EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=args.seed,
        )


def run(spec: Spec, out: Path) -> None:
    run_training(spec, out, _train)


def _train(spec: Spec, journal: Journal, out: Path) -> None:
    section = GrpoConfig.model_validate(spec.config["grpo"])
    setting = open_setting(spec, dropout=0.0)
    tokenizer = load_tokenizer(spec.inputs["base"])
    rewards = {name: weight for name, weight in sorted(section.rewards.items()) if weight}
    rows, prompt_tokens = _rows(spec, tokenizer)
    longest = max(map(len, prompt_tokens.values()))
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
        num_iterations=section.num_iterations,
        steps_per_generation=(section.steps_per_generation or section.accumulation)
        // ranks.world(),
        reward_weights=list(rewards.values()),
        **engine_arguments(section, spec.runtime, longest_prompt=longest),
        shuffle_dataset=True,
    )
    kept = Completions(list(rewards))
    figures = Figures()
    _refuse_too_few(len(rows), section, name=spec.name)
    trainer = MaskedGrpoTrainer(
        model=setting.model,
        args=arguments,
        reward_funcs=[
            _rewarding(
                name,
                reward_named(name, sandbox=spec.runtime.sandbox),
                answer_format(spec.config["answer_format"]),
                kept,
                first=k == 0,
            )
            for k, name in enumerate(rewards)
        ],
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[figures],
    )
    _set_reference(setting.model, section, spec)
    trainer.masks = setting.masks
    trainer.inner = optimizer_class(section.optimizer)
    trainer.prompt_tokens = prompt_tokens
    trainer.journal, trainer.gathered = journal, [figures, kept]
    if section.engine == "vllm":
        trainer.sample_elsewhere(open_log(spec, journal))
    trainer.train_to_the_end()
    trainer.tell_footprint(figures)
    kept.collect()
    if ranks.rank() == 0:
        kept.save(out)
    finish(spec, setting, figures, out)


def _set_reference(model: PeftModel, section: GrpoConfig, spec: Spec) -> None:
    """Give trl's reference adapter the weights that are asked for; it has the policy's own.

    Without that adapter trl takes the base model, by switching the policy's adapter off.
    """
    if not section.kl_coefficient:
        return
    if "reference" in spec.inputs:
        tensors = load_tensors(spec.inputs["reference"] / ADAPTER_WEIGHTS)
        set_weights(adapter_parameters(model, name="ref"), tensors)
    elif section.kl_reference == "base":
        model.delete_adapter("ref")


def _rewarding(
    name: str, score: Reward, form: AnswerFormat, kept: Completions, *, first: bool
) -> RewardFunction:
    """trl's form of the reward `name`; it keeps what it gives, the first one what it is given."""

    def reward(
        *,
        completions: list[str],
        reference: list[str],
        example_id: list[str],
        trainer_state: Any,
        **_: Any,
    ) -> list[float]:
        rows = zip(completions, reference, example_id, strict=True)
        values = [_score(name, score, c, r, form, example=i) for c, r, i in rows]
        if first:
            step = trainer_state.global_step
            kept.add(step=step, example_ids=example_id, completions=completions)
        kept.reward(name, values)
        return values

    reward.__name__ = name
    return reward


def _score(
    name: str, score: Reward, completion: str, reference: str, form: AnswerFormat, *, example: str
) -> float:
    """The reward as a number. A reward of the user's may give anything, whatever its type says.

    Raises:
        TrainingError: it fails, or gives what is no finite number.
    """
    try:
        value: Any = score(completion, reference, form)
        if isinstance(value, Real) and isfinite(value):
            return float(value)
    except (Exception, SystemExit) as error:
        raise TrainingError(
            f"reward {name!r} failed with {type(error).__name__}: {error}, on example {example}, "
            f"the completion {completion[:200]!r}"
        ) from error
    raise TrainingError(
        f"reward {name!r} gave {value!r:.100}, expected a finite number, on example {example}, "
        f"the completion {completion[:200]!r}"
    )


def _refuse_too_few(prompts: int, section: GrpoConfig, *, name: str) -> None:
    """Raise if there are too few prompts to generate: trl makes whole batches, and drops the rest.

    Raises:
        TrainingError: as said.
    """
    passes = section.steps_per_generation or section.accumulation
    needed = section.batch_size * passes // section.group_size
    if prompts < needed:
        which = "steps_per_generation" if section.steps_per_generation else "accumulation"
        raise TrainingError(
            f"{name} has {prompts} prompts, and one generation takes {needed} (batch_size × "
            f"{which} / group_size); lower them or take more data"
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
