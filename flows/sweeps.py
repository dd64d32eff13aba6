"""Sweeps: points that differ in one thing, each trained with several seeds, and what they claim.

A sweep is a definition and nothing else: from a recipe it makes points, sparse overrides with a
label, and the paper's claims about them. `trials` lays point over recipe and seed over point; each
trial is a recipe like any other, so that all they have in common is computed once. Seeds move what
is drawn in initialization, scoring, partition and training. Data and votes stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from flows.paper import recipe_of
from lorapar_core.config import Method, Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import did_you_mean, merge

THETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FRACTIONS = (0.0, 0.5, 1.0)
MODULES = ("QKV", "GUD", "QKVGUD")
PANELS = (3, 5)
"""Sizes of the panels that vote, beside the single teacher."""
METHODS = get_args(Method)
WITH_RL = ("lora-par", "lora+rl", "pissa+rl", "random")
"""Those that keep all of a recipe's stages."""
SEEDED = ("lora", "importance", "partition", "voting", "sft", "grpo")
"""Sections whose `seed` is the trial's. That of `voting` deals random labels and no votes."""
Phase = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of what a sweep moves."""

    label: str
    values: Mapping[str, Any]
    """What it moves -> its value, as a table shows them."""
    overrides: Mapping[str, Any]
    """Sparse sections, as a flow's parameters."""


@dataclass(frozen=True, slots=True)
class Term:
    """A point's accuracy after its first or its last training stage, with its weight."""

    label: str
    weight: float
    phase: Phase = "last"


@dataclass(frozen=True, slots=True)
class Claim:
    """That a weighted sum of points' accuracies, of weights that add up to 0, lies above 0."""

    text: str
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A named set of points."""

    name: str
    summary: str
    points: Callable[[Recipe], list[Point]]
    claims: Callable[[list[Point]], list[Claim]]
    exhibits: tuple[str, ...]
    """Points of which a trial's regions and labels are worth showing, the best first."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A point with a seed: one run of the pipeline."""

    point: Point
    seed: int
    sections: Mapping[str, Any]
    """Everything that is laid over the recipe's file."""
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.point.label}, seed {self.seed}"


def sweep_named(name: str) -> Sweep:
    """The sweep called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in SWEEPS:
        raise ConfigError(
            f"no sweep {name!r}{did_you_mean(name, SWEEPS)}; there are {', '.join(SWEEPS)}"
        )
    return SWEEPS[name]


def trials(
    sweep: Sweep,
    source: str | Path,
    *,
    seeds: Sequence[int],
    overrides: Mapping[str, Any],
    only: Sequence[str] = (),
) -> list[Trial]:
    """Every point (or `only` those of these labels) with every seed, a point's seeds together.

    Neighbours have different seeds, so that two that run side by side seldom wait for the same
    artifact.

    Raises:
        ConfigError: no or equal seeds, a point that there isn't, an override of what the sweep
            moves, a recipe that the sweep can't be made of or on which it moves nothing, or as
            `recipe_of` says of any trial.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds are {list(seeds)}; give one or more different ones from 0 on")
    recipe = recipe_of(source, overrides)
    _require_swept(sweep, recipe)
    points = _only(sweep, sweep.points(recipe), only)
    _require_unmoved(sweep, points, overrides)
    made = []
    for point in points:
        for seed in seeds:
            seeded = {section: {"seed": seed} for section in SEEDED}
            laid = _laid_over(overrides, point.overrides, seeded)
            trial = recipe_of(source, laid)
            made.append(Trial(point, seed, laid, trial))
    return made


def _require_swept(sweep: Sweep, recipe: Recipe) -> None:
    """Refuse a recipe on which the sweep would train the same thing at every point.

    Raises:
        ConfigError: as said.
    """
    if sweep.name == "baselines":
        return
    if recipe.method != "lora-par":
        raise ConfigError(
            f"method is {recipe.method}, and the sweep {sweep.name} moves what only lora-par has; "
            "leave method out"
        )
    if not (recipe.needs_labels if sweep.name == "labels" else recipe.needs_masks):
        raise ConfigError(
            f"no stage of the recipe trains a system's elements, so the sweep {sweep.name} would "
            "train the same at every point; give stages a system 1 or 2"
        )


def _only(sweep: Sweep, points: list[Point], labels: Sequence[str]) -> list[Point]:
    """The points of these labels; all without any.

    Raises:
        ConfigError: there is no such point.
    """
    known = {point.label: point for point in points}
    for label in labels:
        if label not in known:
            raise ConfigError(
                f"the sweep {sweep.name} has no point {label!r}{did_you_mean(label, known)}; there "
                f"are {', '.join(map(repr, known))}"
            )
    return [point for point in points if not labels or point.label in labels]


def _laid_over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Sparse sections, the later over the earlier, field by field."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def _require_unmoved(sweep: Sweep, points: Iterable[Point], overrides: Mapping[str, Any]) -> None:
    """Refuse an override that every trial would undo. A list of stages is what points are made of.

    Raises:
        ConfigError: as said.
    """
    moved = {f"{section}.seed" for section in SEEDED}
    for point in points:
        moved |= _fields(point.overrides) - {"stages"}
    both = sorted(moved & _fields(overrides))
    if both:
        remedy = "use --seeds" if both[0].endswith(".seed") else "leave it out"
        raise ConfigError(
            f"{both[0]} is set, and the sweep {sweep.name} gives it another value in each trial; "
            f"{remedy}"
        )


def _fields(sections: Mapping[str, Any]) -> set[str]:
    return {
        f"{name}.{inner}" if isinstance(value, Mapping) else name
        for name, value in sections.items()
        for inner in (value if isinstance(value, Mapping) else [name])
    }


# What is swept


def _sft_only(recipe: Recipe) -> dict[str, Any]:
    """The recipe's SFT stages alone, as the paper studies theta, modules and labels.

    Raises:
        ConfigError: there is none.
    """
    stages = [s.model_dump(mode="json") for s in recipe.stages if s.kind == "sft"]
    if not stages:
        raise ConfigError("stages has no sft, and the sweep trains by SFT alone; add one")
    return {"stages": stages}


def _theta(recipe: Recipe) -> list[Point]:
    """Every theta by importance, and below 1 a random set of the same size."""
    return [
        Point(
            f"theta {theta:g}" + (", random" if choice == "random" else ""),
            {"theta": theta, "elements": choice},
            {**_sft_only(recipe), "partition": {"theta": theta, "choice": choice}},
        )
        for theta in THETAS
        for choice in ("importance", "random")
        if choice == "importance" or theta < 1
    ]


def _theta_claims(points: list[Point]) -> list[Claim]:
    chosen = {p.values["theta"]: p.label for p in points if p.values["elements"] == "importance"}
    controls = {p.values["theta"]: p.label for p in points if p.values["elements"] == "random"}
    beside = [theta for theta in chosen if theta in controls]
    share = 1 / max(1, len(beside))
    pooled = [
        term
        for theta in beside
        for term in (Term(chosen[theta], share), Term(controls[theta], -share))
    ]
    slope, together = "accuracy rises with theta (slope, from 0 to 1)", tuple(pooled)
    return [
        *([Claim(slope, _slope(chosen))] if len(chosen) > 1 else []),
        *_above([(0.9, 0.3)], chosen, "theta {:g} above theta {:g}"),
        *(
            [Claim("importance above random, all thetas together", together)]
            if len(beside) > 1
            else []
        ),
        *(
            Claim(
                f"importance above random at theta {theta:g}",
                (Term(chosen[theta], 1), Term(controls[theta], -1)),
            )
            for theta in beside
        ),
    ]


def _slope(labels: Mapping[float, str]) -> tuple[Term, ...]:
    """The least-squares slope of accuracy over the keys."""
    mean = sum(labels) / len(labels)
    spread = sum((x - mean) ** 2 for x in labels)
    return tuple(Term(label, (x - mean) / spread) for x, label in labels.items())


def _above(pairs: Iterable[tuple[Any, Any]], labels: Mapping[Any, str], text: str) -> list[Claim]:
    """A claim for each pair of keys: the first above the second."""
    return [
        Claim(text.format(a, b), (Term(labels[a], 1), Term(labels[b], -1)))
        for a, b in pairs
        if a in labels and b in labels
    ]


def _shared(_recipe: Recipe) -> list[Point]:
    return [
        Point(
            f"alpha {alpha:g}, beta {beta:g}",
            {"alpha": alpha, "beta": beta},
            {"partition": {"alpha": alpha, "beta": beta}},
        )
        for alpha in FRACTIONS
        for beta in FRACTIONS
    ]


def _shared_claims(points: list[Point]) -> list[Claim]:
    labels = {(p.values["alpha"], p.values["beta"]): p.label for p in points}
    if (1.0, 1.0) not in labels:
        return []
    others = [((1.0, 1.0), key) for key in labels if key != (1.0, 1.0)]
    best = labels[1.0, 1.0]
    return [
        *(
            Claim(f"{best} above {labels[b]}", (Term(labels[a], 1), Term(labels[b], -1)))
            for a, b in others
        ),
        Claim(
            f"{best}: after the last stage above after the first",
            (Term(best, 1, "last"), Term(best, -1, "first")),
        ),
    ]


def _modules(recipe: Recipe) -> list[Point]:
    return [
        Point(name, {"modules": name}, {**_sft_only(recipe), "lora": {"modules": name}})
        for name in MODULES
    ]


def _modules_claims(points: list[Point]) -> list[Claim]:
    labels = {p.label: p.label for p in points}
    return _above([("QKVGUD", "QKV"), ("QKVGUD", "GUD")], labels, "{} above {}")


def _labels(recipe: Recipe) -> list[Point]:
    """The paper's strategies: the first teacher alone, with and without a part to play, the second
    alone, the first three, the first five, and a random partition.

    Raises:
        ConfigError: fewer than three teachers vote.
    """
    panel = [teacher.name for teacher in recipe.panel]
    if len(panel) < min(PANELS):
        raise ConfigError(
            f"the recipe's panel is {panel}, and the sweep labels compares one teacher with three "
            "(and five); give the recipe at least three"
        )
    sizes = [size for size in PANELS if size <= len(panel)]

    def point(label: str, size: int, **voting: Any) -> Point:
        fields = {"panel": panel[:size], "role_play": True, "labels": "votes", **voting}
        said: dict[str, Any] = {"teachers": size}
        said["role play"] = "yes" if fields["role_play"] else "no"
        said["labels"] = fields["labels"]
        return Point(label, said, {**_sft_only(recipe), "voting": fields})

    return [
        point("one teacher, no role play", 1, role_play=False),
        point("one teacher", 1),
        point("another teacher", 1, panel=panel[1:2]),
        *(point(f"{size} teachers", size) for size in sizes),
        point("random partition", sizes[-1], labels="random"),
    ]


def _labels_claims(points: list[Point]) -> list[Claim]:
    labels = {p.label: p.label for p in points}
    wanted = ("5 teachers", "3 teachers", "one teacher", "random partition")
    ordered = [label for label in labels if label in wanted]
    ordered.sort(key=wanted.index)
    pairs = [
        *pairwise(ordered),
        *([(ordered[0], ordered[-1])] if len(ordered) > 2 else []),
        ("one teacher", "one teacher, no role play"),
    ]
    return _above(pairs, labels, "{} above {}")


def _order(recipe: Recipe) -> list[Point]:
    """The recipe's stages, those of SFT first and last.

    Raises:
        ConfigError: it doesn't have both kinds.
    """
    dumped = [stage.model_dump(mode="json") for stage in recipe.stages]
    sft = [stage for stage in dumped if stage["kind"] == "sft"]
    grpo = [stage for stage in dumped if stage["kind"] == "grpo"]
    if not sft or not grpo:
        raise ConfigError("stages needs both sft and grpo for the sweep order; add what is missing")
    return [
        Point("SFT then RL", {"order": "SFT, RL"}, {"stages": [*sft, *grpo]}),
        Point("RL then SFT", {"order": "RL, SFT"}, {"stages": [*grpo, *sft]}),
    ]


def _order_claims(points: list[Point]) -> list[Claim]:
    labels = {p.label: p.label for p in points}
    if "SFT then RL" not in labels:
        return []
    return [
        *_above([("SFT then RL", "RL then SFT")], labels, "{} above {}"),
        Claim(
            "SFT then RL: after RL above after SFT",
            (Term("SFT then RL", 1, "last"), Term("SFT then RL", -1, "first")),
        ),
    ]


def _baselines(_recipe: Recipe) -> list[Point]:
    return [Point(name, {"method": name}, {"method": name}) for name in METHODS]


def _baselines_claims(points: list[Point]) -> list[Claim]:
    """After as many stages: SFT's alone, where that is all that a method has."""
    labels = [point.label for point in points]
    if "lora-par" not in labels:
        return []
    return [
        Claim(
            "lora-par: after its last stage above after its first",
            (Term("lora-par", 1, "last"), Term("lora-par", -1, "first")),
        ),
        *(
            _against(name, phase)
            for name in labels
            if name != "lora-par"
            for phase in _phases(name)
        ),
    ]


def _phases(name: str) -> list[Phase]:
    """After which training stages LoRA-PAR is compared with a method: with a control after both."""
    if name == "random":
        return ["first", "last"]
    return ["last" if name in WITH_RL else "first"]


def _against(name: str, phase: Phase) -> Claim:
    """LoRA-PAR above another method."""
    text = f"lora-par above {name}" + (", after SFT" if phase == "first" else "")
    return Claim(text, (Term("lora-par", 1, phase), Term(name, -1, phase)))


SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep(
            "theta",
            "theta from 0.1 to 1, with random controls; SFT",
            _theta,
            _theta_claims,
            exhibits=("theta 0.9",),
        ),
        Sweep(
            "shared",
            "alpha and beta in 0, 0.5, 1; all stages",
            _shared,
            _shared_claims,
            exhibits=("alpha 1, beta 1",),
        ),
        Sweep(
            "modules",
            "QKV, GUD, QKVGUD; SFT",
            _modules,
            _modules_claims,
            exhibits=("QKVGUD",),
        ),
        Sweep(
            "labels",
            "how the data is labelled; SFT",
            _labels,
            _labels_claims,
            exhibits=("5 teachers", "3 teachers"),
        ),
        Sweep(
            "order",
            "SFT then RL, RL then SFT",
            _order,
            _order_claims,
            exhibits=("SFT then RL",),
        ),
        Sweep(
            "baselines",
            "LoRA-PAR and what is used instead",
            _baselines,
            _baselines_claims,
            exhibits=("lora-par",),
        ),
    )
}
