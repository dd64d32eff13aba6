"""Forks a process for each training run it is asked for, so that a hundred need torch once.

One JSON object a line on stdin, {"store", "stage", "config", "inputs", "runtime", "log", "home",
"file_limit", "prepare", "kill"}; for each a line {"pid": ...} as it begins, and {"status": ...}
when it has ended: its exit code, or minus the signal's number. A run is `tasks.stage.perform` as a
flow has it, with a real store, but its stage runs in the same process, so that one kill ends
trainer and publisher together, at any moment of either.

`kill` is {"at": a name of `POINTS`, "nth": n, "number": a signal's}: the process sends itself that
signal when it comes there for the nth time. `file_limit` is the most bytes a file may have: beyond
it a write fails, as on a full disk. `prepare` is a `module:function` to call before training. `log`
gets one line for each batch that a loss was computed of.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kill_points import POINTS, arm


class Here:
    """In the place of `tasks.children.Children`: the stage runs in this process."""

    closed = False

    def run(self, spec: Any, out: Path, *, place: str, listen: Callable[[Any], None]) -> float:
        from lorapar_core import events
        from lorapar_core.process import reset
        from lorapar_core.stages import stage

        def hear(event: dict[str, Any]) -> None:
            if event["event"] != "progress":
                listen(event)

        events.set_sink(hear)
        reset(spec.runtime)
        stage(spec.stage).run(spec, out)
        return 0.0


def main() -> None:
    """Serve until stdin ends."""
    _import_all()
    print(json.dumps({"ready": sorted(POINTS)}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(job)  # never returns
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


def _import_all() -> None:
    import torch

    from lorapar_core.rewards.registry import REWARDS

    for name in (
        "lorapar_core.grpo",
        "lorapar_core.sft",
        "peft.tuners.lora.model",
        "tasks.stage",
        "transformers.models.llama.modeling_llama",
    ):
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # else each forked process collects what was imported
    # A random model's completions earn nothing by the usual rewards.
    REWARDS["tag_credit"] = lambda completion, reference, form: (
        zlib.crc32(completion.encode()) % 97 / 97
    )


def _run(job: Mapping[str, Any]) -> None:
    os.dup2(2, 1)  # our answers are the server's alone
    code = 1
    try:
        _perform(job)
        code = 0
    except BaseException as error:  # noqa: BLE001  a forked process must not go on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _perform(job: Mapping[str, Any]) -> None:
    from artifacts import Store
    from lorapar_core.config import RuntimeConfig
    from tasks.action import Action, External
    from tasks.stage import perform

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    inputs = {role: External(digest, Path(path)) for role, (digest, path) in job["inputs"].items()}
    action = Action(job["stage"], job["stage"], config=job["config"], inputs=inputs)
    _note_batches(Path(job["log"]))
    os.environ["HOME"] = job["home"]
    if job["prepare"]:
        module, _, function = job["prepare"].partition(":")
        getattr(importlib.import_module(module), function)()
    if job["kill"]:
        arm(job["kill"]["at"], nth=job["kill"]["nth"], number=job["kill"]["number"])
    if job["file_limit"]:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], limit))
    perform(
        action,
        store=Store.open(job["store"]),
        children=Here(),  # type: ignore[arg-type]
        runtime=RuntimeConfig.model_validate(job["runtime"]),
        listen=lambda event: None,
    )


def _note_batches(log: Path) -> None:
    """Have both trainers write down every batch whose loss they compute."""
    from trl import GRPOTrainer, SFTTrainer

    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, b'{"began": true}\n')

    def noting(compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        def noted(
            self: Any, model: Any, inputs: Mapping[str, Any], *more: Any, **named: Any
        ) -> Any:
            if self.model.training:
                line = {"step": self.state.global_step, "batch": _digest(inputs)}
                os.write(file, json.dumps(line).encode() + b"\n")
            return compute_loss(self, model, inputs, *more, **named)

        return noted

    for trainer in (SFTTrainer, GRPOTrainer):
        trainer.compute_loss = noting(trainer.compute_loss)


def _digest(inputs: Mapping[str, Any]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
