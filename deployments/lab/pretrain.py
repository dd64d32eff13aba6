"""Train the lab's model from scratch: `python -m deployments.lab.pretrain FOLDER`.

One thread, one process, the text of `deployments.lab.text`. Step n's rows come from the seed and n
alone, so that a run that was ended goes on from its last checkpoint (FOLDER/state.pt) as if it
hadn't been. At the end FOLDER/model gets the model, its tokenizer and `training.json`: what decided
the weights, what the model can do, and the digest that names it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deployments.lab.text import SHARES, document
from deployments.lab.tokenizer import build
from lorapar_core.base import locate

if TYPE_CHECKING:
    from torch import Tensor

TEST_DOCUMENTS = 256
SAY_STEPS, CHECKPOINT_STEPS = 100, 500
STATE, ABOUT = "state.pt", "training.json"


@dataclass(frozen=True, slots=True)
class Training:
    """Everything that decides the weights."""

    seed: int = 0
    hidden: int = 128
    feed_forward: int = 384
    layers: int = 4
    heads: int = 4
    row: int = 64
    """Tokens a row: documents one after another, the last cut where the row ends."""
    rows: int = 32
    """Rows a step."""
    steps: int = 4000
    learning_rate: float = 2e-3
    warmup: int = 200
    """Steps."""
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        """The learning rate of a step: up in a line, down in a cosine to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class Encoder:
    """Documents as token ids and weights."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.numbers = {i for token, i in tokenizer.get_vocab().items() if token.strip().isdigit()}

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def document(self, rng: random.Random) -> tuple[str, list[int], list[float]]:
        """Kind, token ids and their weights, the end-of-sequence token last."""
        kind, parts = document(rng)
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in parts:
            piece = self.ids(text)
            ids += piece
            weights += [weight] * len(piece)
        return kind, [*ids, self._tokenizer.eos_token_id], [*weights, weights[-1]]

    def rows(self, training: Training, step: int) -> tuple[Tensor, Tensor]:
        """Token ids and weights of a step, both [rows, row + 1]."""
        rng = random.Random(f"pretrain:{training.seed}:{step}")
        rows = [self._row(rng, training.row + 1) for _ in range(training.rows)]
        ids, weights = zip(*rows, strict=True)
        return torch.tensor(ids), torch.tensor(weights)

    def _row(self, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            _, more, heavy = self.document(rng)
            ids += more
            weights += heavy
        return ids[:length], weights[:length]


def new_model(training: Training, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights."""
    torch.manual_seed(training.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=training.hidden,
            intermediate_size=training.feed_forward,
            num_hidden_layers=training.layers,
            num_attention_heads=training.heads,
            num_key_value_heads=training.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def loss_of(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the next token, in nats."""
    logits = model(input_ids=ids[:, :-1]).logits
    each = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    heavy = weights[:, 1:].flatten()
    return (each * heavy).sum() / heavy.sum()


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, encoder: Encoder) -> dict[str, float]:
    """Kind -> share of unseen documents of which every number that follows is the likeliest token.

    What follows has weight 1; of echoes nothing does, and they aren't counted.
    """
    rng = random.Random("pretrain:test")
    right: dict[str, list[bool]] = {kind: [] for kind in SHARES}
    for _ in range(TEST_DOCUMENTS):
        kind, ids, weights = encoder.document(rng)
        best = model(input_ids=torch.tensor([ids[:-1]])).logits[0].argmax(-1).tolist()
        ahead = zip(best, ids[1:], weights[1:], strict=True)
        numbers = [b == i for b, i, weight in ahead if weight == 1 and i in encoder.numbers]
        if numbers:
            right[kind].append(all(numbers))
    return {kind: round(float(np.mean(found)), 3) for kind, found in right.items() if found}


def train(training: Training, folder: Path) -> None:
    """Train to the last step, from FOLDER's checkpoint if there is one."""
    torch.set_num_threads(1)
    tokenizer = build()
    encoder = Encoder(tokenizer)
    model = new_model(training, tokenizer)
    optimizer = _optimizer(model, training)
    began, first = time.monotonic(), _resumed(folder, training, model, optimizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first}")
    for step in range(first, training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        loss = loss_of(model, *encoder.rows(training, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % SAY_STEPS == 0:
            seconds = time.monotonic() - began
            print(f"step {done} loss {loss.item():.4f} seconds {seconds:.0f}", flush=True)
        if done % CHECKPOINT_STEPS == 0:
            print(f"step {done} {json.dumps(accuracy(model, encoder))}", flush=True)
            _keep(folder, training, model, optimizer, done)
    found = accuracy(model, encoder)
    _save(folder / "model", training, model, tokenizer, found)
    print(json.dumps(found))


def _optimizer(model: LlamaForCausalLM, training: Training) -> torch.optim.AdamW:
    """AdamW that decays matrices, and no norms."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == dim], "weight_decay": decay}
        for dim, decay in ((2, training.weight_decay), (1, 0.0))
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _resumed(
    folder: Path, training: Training, model: LlamaForCausalLM, optimizer: torch.optim.AdamW
) -> int:
    """Load the checkpoint, if there is one; returns the steps that are done."""
    if not (folder / STATE).exists():
        return 0
    saved = torch.load(folder / STATE, weights_only=True)
    if saved["training"] != asdict(training):
        raise SystemExit(f"{folder / STATE} is of another training; remove it or take a new folder")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _keep(
    folder: Path,
    training: Training,
    model: LlamaForCausalLM,
    optimizer: torch.optim.AdamW,
    step: int,
) -> None:
    """Write the checkpoint, whole or not at all."""
    part = folder / f"{STATE}.part"
    state = {
        "training": asdict(training),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(state, part)
    part.replace(folder / STATE)


def _save(
    place: Path,
    training: Training,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    found: dict[str, float],
) -> None:
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    about = {
        "training": asdict(training),
        "accuracy": found,
        "torch": torch.__version__,
        "digest": locate(str(place)).digest,
    }
    (place / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the lab's model from scratch.")
    parser.add_argument("folder", type=Path)
    for name, value in asdict(Training()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    folder: Path = given.pop("folder")
    folder.mkdir(parents=True, exist_ok=True)
    train(Training(**given), folder)


if __name__ == "__main__":
    main()
