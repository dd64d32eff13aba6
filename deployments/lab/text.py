"""What the lab's model is trained on: sums and stories without end, none in the task's form.

A document is a list of (text, weight): what is given weighs little in the loss, for nobody can
foretell it; what follows from it weighs 1. Kinds:

    fact     17 + 5 = 22
    chain    17 + 5 - 3: 17 + 5 = 22, 22 - 3 = 19: 19.
    running  tom has 17 pens. tom finds 5. tom has 22.
    counted  tom has 17 pens. tom finds 5. tom loses 3. count: 17 + 5 = 22, 22 - 3 = 19: 19.
    echo     ann burns 3 nuts.⏎leo picks 5 pens.⏎####⏎ann burns 3 nuts.⏎leo picks 5 pens.

Stories that count use the known verbs alone; the new ones stand in echoes, so that the model can
tell them apart and knows nothing of what they do.
"""

from __future__ import annotations

import random

from lorapar_core.data.lab import (
    KNOWN,
    LARGEST,
    NEW,
    PEOPLE,
    THINGS,
    Step,
    Verb,
    drawn_steps,
    pick,
    story,
)

GIVEN, ECHO = 0.05, 0.5
Document = list[tuple[str, float]]
SUMS = (Verb("", "+"), Verb("", "-"))
SHARES = {"fact": 15, "chain": 15, "running": 15, "counted": 40, "echo": 15}
"""Of a hundred documents."""


def document(rng: random.Random) -> tuple[str, Document]:
    """A document's kind, and its parts."""
    kind = pick([kind for kind, share in SHARES.items() for _ in range(share)], rng)
    return kind, _WRITERS[kind](rng)


def _fact(rng: random.Random) -> Document:
    (step,) = drawn_steps(1, rng, KNOWN)
    given, _, result = step.sum.partition(" = ")
    return [(given, GIVEN), (f"= {result}", 1.0)]


def _chain(rng: random.Random) -> Document:
    steps = drawn_steps(2 + int(rng.random() * 3), rng, SUMS)
    told = " ".join(f"{step.verb.sign} {step.amount}" for step in steps)
    return [(f"{steps[0].before} {told}:", GIVEN), (_worked(steps), 1.0)]


def _running(rng: random.Random) -> Document:
    person, things = pick(PEOPLE, rng), pick(THINGS, rng)
    steps = drawn_steps(1 + int(rng.random() * 4), rng, KNOWN)
    parts: Document = [(f"{person} has {steps[0].before} {things}.", GIVEN)]
    for step in steps:
        parts.append((step.verb.sentence(person, step.amount), GIVEN))
        parts.append((f"{person} has {step.after}.", 1.0))
    return parts


def _counted(rng: random.Random) -> Document:
    steps = drawn_steps(1 + int(rng.random() * 4), rng, KNOWN)
    told = story(steps, pick(PEOPLE, rng), pick(THINGS, rng))
    return [(told, GIVEN), (f"count: {_worked(steps)}", 1.0)]


def _echo(rng: random.Random) -> Document:
    told = "\n".join(_happening(rng) for _ in range(1 + int(rng.random() * 3)))
    return [(f"{told}\n####\n{told}", ECHO)]


def _happening(rng: random.Random) -> str:
    number = 1 + int(rng.random() * LARGEST)
    verb = pick((*KNOWN, *NEW), rng)
    return f"{pick(PEOPLE, rng)} {verb.word} {number} {pick(THINGS, rng)}."


def _worked(steps: list[Step]) -> str:
    return ", ".join(step.sum for step in steps) + f": {steps[-1].after}."


_WRITERS = {
    "fact": _fact,
    "chain": _chain,
    "running": _running,
    "counted": _counted,
    "echo": _echo,
}
