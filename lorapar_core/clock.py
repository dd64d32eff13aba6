"""Tokens a second of a trl trainer, beside its other figures."""

from __future__ import annotations

import time
from typing import Any


class Clocked:
    """Mixin for a trl trainer: logs `tokens_per_second`, of the tokens that trl counts itself.

    For GRPO they are those of prompts and completions, in the step that made them.
    """

    _seconds = 0.0
    _tokens = 0

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        began, before = time.perf_counter(), self._counted()
        result = super().training_step(*arguments, **named)  # type: ignore[misc]
        self._seconds += time.perf_counter() - began
        self._tokens += self._counted() - before
        return result

    def _counted(self) -> int:
        """SFT counts in the one, GRPO in the other."""
        trainer: Any = self
        return int(trainer._total_train_tokens + trainer.state.num_input_tokens_seen)

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if self._tokens:
            logs["tokens_per_second"] = self._tokens / self._seconds
        self._seconds, self._tokens = 0.0, 0
        super().log(logs, *arguments, **named)  # type: ignore[misc]
