"""In vLLM's place: an engine that draws from a copy of the model, as nobody can draw again.

It is trl's own `VLLMGeneration` but for what needs vLLM: trl builds it, has it take weights as it
would send them, and asks it for completions with their log-probabilities. Here vLLM itself can't
run, for want of a GPU.

As a program it is `python -m lorapar_core` with that engine.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import torch


def install() -> None:
    """Have trl take the fake, and us believe that vllm is installed."""
    trainer: Any = importlib.import_module("trl.trainer.grpo_trainer")
    generation: Any = importlib.import_module("trl.generation.vllm_generation")
    engines: Any = importlib.import_module("lorapar_core.engines")
    trainer.VLLMGeneration = type("FakeVllm", (_Fake, generation.VLLMGeneration), {})
    engines.require_engine = lambda name: None


def install_forgetful() -> None:
    """`install`, and no generation is ever found in the log."""
    install()
    rollouts: Any = importlib.import_module("lorapar_core.rollout_log")
    rollouts.RolloutLog.find = lambda self, generation, *, prompts: None


class _Fake:
    """What stands before trl's class."""

    def _init_vllm(self) -> None:
        from transformers import AutoModelForCausalLM

        own: Any = self
        found = AutoModelForCausalLM.from_pretrained(own.model.name_or_path, dtype=torch.float32)
        self.llm = found.eval()
        self.generator = torch.Generator()
        self.generator.manual_seed(int.from_bytes(os.urandom(7), "big"))

    @torch.no_grad()
    def sync_weights(self) -> None:
        own: Any = self
        parameters = dict(self.llm.named_parameters())
        given = {name: parameters[name].copy_(weight) for name, weight in own._iter_named_params()}
        assert given.keys() == parameters.keys()

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any = None
    ) -> tuple[Any, ...]:
        torch.rand(3)  # vLLM in this process may draw from the common state too
        drawn = [self._draw(prompt) for prompt in prompts]
        chances = [[[chance] for chance in chances] for _, chances in drawn]
        return prompts, [ids for ids, _ in drawn], chances, None

    def _draw(self, prompt: list[int]) -> tuple[list[int], list[float]]:
        """As many forward passes for each prompt, whatever comes of them."""
        own: Any = self
        ids = torch.tensor([prompt])
        chances: list[float] = []
        for _ in range(own.max_completion_length):
            logits = self.llm(input_ids=ids).logits[0, -1] / own.temperature
            chance = torch.log_softmax(logits, -1)
            token = torch.multinomial(chance.exp(), 1, generator=self.generator)
            chances.append(float(chance[token]))
            ids = torch.cat([ids, token[None]], dim=1)
        completion = ids[0, len(prompt) :].tolist()
        end = own.processing_class.eos_token_id
        length = completion.index(end) + 1 if end in completion else len(completion)
        return completion[:length], chances[:length]


if __name__ == "__main__":
    from lorapar_core.__main__ import main
    from lorapar_core.process import quiet_libraries

    quiet_libraries()
    install()
    sys.exit(main(sys.argv[1:]))
