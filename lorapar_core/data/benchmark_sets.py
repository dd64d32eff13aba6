"""Which problems a benchmark asks, and after which worked examples: rows chosen by a seed.

Light to import: the parent process reads a file's rows before any work, a child reads them for the
stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar_core.data.problems import Kind, Problem, prefix, read_problems, stops, with_ids
from lorapar_core.data.rows import Row, read_rows, unit
from lorapar_core.data.sources import Source, hub_rows
from lorapar_core.errors import DataError
from lorapar_core.examples import seeded_order
from lorapar_core.python_source import is_head


@dataclass(frozen=True, slots=True)
class Shown:
    """A benchmark as a model is asked it: problems by id, and each group's worked examples."""

    task: str
    kind: Kind
    problems: Mapping[str, Problem]
    shots: Mapping[str, Sequence[tuple[str, str]]]
    """Group -> question and solution of each worked example."""
    prefixes: Mapping[str, str]
    """Group -> what stands before a prompt in plain wording."""
    stops: Sequence[str]
    in_words: str = ""
    """Of programs: a prompt that none can go on from; empty if there is no such."""


def gather(config: Mapping[str, Any], files: Mapping[str, Path]) -> Shown:
    """The benchmark that a stage's config asks for.

    Raises:
        DataError: a row can't be used; a subject isn't there; or there are too few worked examples.
    """
    task, subjects = config["task"], config["subjects"]
    found = read_problems(_rows(config, files, "set"), task=task)
    absent = sorted(set(subjects) - {problem.group for problem in found})
    if absent:
        raise DataError(
            f"the source of benchmark task {task} has no problem of subject {absent[0]!r}; leave "
            "it out of subjects, or give another source"
        )
    problems = with_ids([p for p in found if not subjects or p.group in subjects])
    if config["examples"]:
        chosen = set(seeded_order(problems, seed=config["seed"])[: config["examples"]])
        problems = {i: problem for i, problem in problems.items() if i in chosen}
    kind = found[0].kind
    groups = sorted({problem.group for problem in problems.values()})
    shots = _shots(config, files, {problem.question for problem in found}, groups)
    return Shown(
        task=task,
        kind=kind,
        problems=problems,
        shots={g: [(shot.question, shot.solution) for shot in shots[g]] for g in groups},
        prefixes={g: prefix(shots[g], group=g, kind=kind) for g in groups},
        stops=stops(task, kind),
        in_words=_in_words(problems.values()) if kind == "code" else "",
    )


def _in_words(problems: Iterable[Problem]) -> str:
    return next((p.prompt for p in problems if not is_head(p.prompt)), "")


def _shots(
    config: Mapping[str, Any], files: Mapping[str, Path], asked: set[str], groups: Sequence[str]
) -> dict[str, list[Problem]]:
    """Each group's worked examples: MMLU's are the first, as everybody takes them; others are drawn
    from those that aren't asked as well."""
    count, task = config["shots"], config["task"]
    if not count:
        return {group: [] for group in groups}
    pool = with_ids(read_problems(_rows(config, files, "shots_set"), task=task))
    if task == "mmlu":
        free = list(pool.values())
    else:
        order = seeded_order(pool, seed=config["seed"])
        free = [pool[i] for i in order if pool[i].question not in asked]
    by_group = any(shot.group for shot in free)
    found = {g: [s for s in free if not by_group or s.group == g][:count] for g in groups}
    for group, shots in found.items():
        if len(shots) < count:
            of = f" of subject {group!r}" if group else ""
            raise DataError(
                f"the shots_source of benchmark task {task} has {len(shots)} worked examples{of} "
                f"that aren't asked as well, and shots is {count}; lower shots, or give another"
            )
    return found


def _rows(
    config: Mapping[str, Any], files: Mapping[str, Path], role: str
) -> Iterator[tuple[str, Row]]:
    source = Source.from_json(config[role])
    if source.kind == "file":
        path = files[role]
        for number, row in read_rows(path):
            yield f"{path} {unit(path)} {number}", row
    else:
        for number, row in hub_rows(source):
            yield f"{source.name} row {number}", row


def require_asked_so(
    kind: Kind, *, prompt: str, samples: int, shots: bool, in_words: str = ""
) -> None:
    """Refuse what makes no sense of a file's rows; of the named sets a recipe can't say it.

    Raises:
        DataError: as said.
    """
    if kind == "choice" and prompt != "plain":
        raise DataError(
            f"rows with choices are asked by how likely their letters are after the plain prompt, "
            f"and prompt is {prompt}; use prompt: plain"
        )
    if kind == "code" and prompt == "as_sft":
        raise DataError("rows with tests are asked to be completed; use prompt: plain or chat")
    if kind == "code" and shots:
        raise DataError("rows with tests have no worked answer to show; use shots: 0")
    if kind != "code" and samples > 1:
        raise DataError(
            f"samples is {samples}, for pass@k of programs, and the rows carry no tests; use 1"
        )
    if in_words and prompt == "plain":
        raise DataError(
            f"the prompt {in_words[:60]!r} is not the beginning of a Python program, and prompt: "
            "plain has the model go on from it; use prompt: chat"
        )
