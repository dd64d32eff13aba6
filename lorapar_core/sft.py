"""Stage `sft`: supervised fine-tuning of a system's active elements, through trl's SFTTrainer.

Examples come tokenised from stage `prepare`, so SFT and scoring see the same tokens and the same
loss mask (prompt tokens are ignored).

config: sft, model, dropout, system, data, epochs. Writes `adapter/`, `metrics.jsonl` and
`figures.jsonl`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from lorapar_core.clock import Clocked
from lorapar_core.config import SftConfig
from lorapar_core.examples import token_rows
from lorapar_core.figures import Figures
from lorapar_core.gradients import IGNORED
from lorapar_core.journal import Journal
from lorapar_core.label_logprobs import LabelLogProbs
from lorapar_core.loading import load_tokenizer
from lorapar_core.lora_branch import FusedBranches
from lorapar_core.optimizers import optimizer_class
from lorapar_core.resume import ExactResume, run_training
from lorapar_core.sharding import ShardedBase
from lorapar_core.spec import Spec
from lorapar_core.training import (
    MaskedTraining,
    common_arguments,
    finish,
    open_setting,
    training_ids,
)


class MaskedSftTrainer(
    ExactResume, Clocked, MaskedTraining, ShardedBase, LabelLogProbs, FusedBranches, SFTTrainer
):
    """SFTTrainer that trains active elements only, and may be killed."""


def run(spec: Spec, out: Path) -> None:
    run_training(spec, out, _train)


def _train(spec: Spec, journal: Journal, out: Path) -> None:
    section = SftConfig.model_validate(spec.config["sft"])
    setting = open_setting(spec, dropout=spec.config["dropout"])
    arguments = TrlSftConfig(
        **common_arguments(spec, section, setting),
        max_length=section.max_length,
        packing=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    figures = Figures()
    trainer = MaskedSftTrainer(
        model=setting.model,
        args=arguments,
        train_dataset=Dataset.from_list(_rows(spec)),
        processing_class=load_tokenizer(spec.inputs["base"]),
        callbacks=[figures],
    )
    trainer.masks = setting.masks
    trainer.inner = optimizer_class(section.optimizer)
    trainer.journal, trainer.gathered = journal, [figures]
    trainer.train_to_the_end()
    trainer.tell_footprint(figures)
    finish(spec, setting, figures, out)


def _rows(spec: Spec) -> list[dict[str, Any]]:
    tokens = token_rows(spec.inputs["tokens"], form="sft")
    return [
        {
            "input_ids": [*tokens[i][0], *tokens[i][1]],
            "labels": [IGNORED] * len(tokens[i][0]) + tokens[i][1],
        }
        for i in training_ids(spec, tokens)
    ]
