"""Which examples of a source are trained and tested on.

An example's id is the digest of its prompt and answer, and every choice follows the order of
sha256("seed:id"): nothing depends on the order of rows in a file. `data.examples` takes the first
of that order, a held-back test set the last, so more examples keep those there were. A training
problem whose prompt is also a test problem's is left out of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorapar_core.config import DataConfig
from lorapar_core.data import arithmetic, lab
from lorapar_core.data.rows import Row, read_rows, unit
from lorapar_core.data.shapes import EmptyRow, Example, example_from, reference_of
from lorapar_core.data.sources import OURS, Source, hub_rows
from lorapar_core.errors import DataError
from lorapar_core.examples import seeded_order
from lorapar_core.row_tests import held_tests


@dataclass(frozen=True, slots=True)
class Entry:
    """An example with its id and where it came from."""

    id: str
    example: Example
    source: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is learned from and what is tested on, and what was left out on the way."""

    train: list[Entry]
    test: list[Entry]
    duplicates: int
    test_overlap: int


def read_source(source: Source, path: Path | None, *, data: DataConfig) -> tuple[list[Entry], int]:
    """All examples of a source, and how many empty rows it has.

    An empty row of a file is an error: its owner can mend it. One of a hub set is left out.

    Raises:
        DataError: a row can't be read, and which; or there are none.
    """
    entries, empty = [], 0
    if source.kind in OURS:
        return [entry_of(example, source.name) for example in _ours(source, data)], 0
    if source.kind == "file":
        if path is None:
            raise DataError(f"no input file was given for a {source.name} data source")
        rows = read_rows(path)
    else:
        rows = hub_rows(source)
    for number, row in rows:
        try:
            example = _example(source, path, number, row)
        except EmptyRow as error:
            if source.kind == "file":
                raise DataError(str(error)) from error
            empty += 1
            continue
        entries.append(entry_of(example, source.name))
    if not entries:
        raise DataError(f"data source {path or source.name} holds no examples")
    return entries, empty


def require_readable(source: Source, path: Path) -> None:
    """Look at a file's first row, so that a wrong column is known before any work.

    Raises:
        DataError: it can't be read as an example, or there is none.
    """
    first = next(read_rows(path), None)
    if first is None:
        raise DataError(f"data source {path} holds no examples")
    _example(source, path, *first)


def placed_examples(source: Source, path: Path) -> Iterator[tuple[str, Example]]:
    """Each example of a file, with the place it stands at.

    Raises:
        DataError: a row can't be read, and which.
    """
    for number, row in read_rows(path):
        yield f"{path} {unit(path)} {number}", _example(source, path, number, row)


def _example(source: Source, path: Path | None, number: int, row: Row) -> Example:
    place = f"{source.name} row {number}" if path is None else f"{path} {unit(path)} {number}"
    return example_from(row, place=place, shape=source.shape, columns=source.columns)


def _ours(source: Source, data: DataConfig) -> Iterator[Example]:
    write = lab.problems if source.kind == "lab" else arithmetic.problems
    made = write(
        split="test" if source.split == "test" else "train",
        count=data.test_examples if source.split == "test" else data.examples,
        single_step_share=data.single_step_share,
        seed=data.seed,
    )
    for problem in made:
        yield Example(problem.prompt, problem.answer, reference_of(problem.answer))


def entry_of(example: Example, source: str) -> Entry:
    """The example under its id: half the sha256 of the canonical JSON of [prompt, answer], or of
    [prompt, answer, reference] where that holds tests, which no answer tells."""
    parts = [example.prompt, example.answer]
    if held_tests(example.reference) is not None:
        parts.append(example.reference)
    content = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return Entry(hashlib.sha256(content.encode()).hexdigest()[:32], example, source)


def ordered(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """The entries without repeats, in the seeded order of their ids."""
    distinct = {entry.id: entry for entry in entries}
    return [distinct[i] for i in seeded_order(distinct, seed=seed)]


def choose(train: Sequence[Entry], test: Sequence[Entry] | None, *, data: DataConfig) -> Chosen:
    """Which examples are trained and tested on.

    Without a test set, `data.test_examples` are held back from the training examples.

    Raises:
        DataError: no test problem can be had, or no training example is left.
    """
    pool = ordered(train, data.seed)
    duplicates = len(train) - len(pool)
    if test is not None:
        tested = ordered(test, data.seed)
        duplicates += len(test) - len(tested)
    else:
        if not 0 < data.test_examples < len(pool):
            raise DataError(
                f"the data has no test set of its own and {len(pool)} examples; set "
                "data.test_examples to how many of them to hold back (at least 1, and not all), "
                "or set data.test_source"
            )
        tested = pool[: -data.test_examples - 1 : -1]
        pool = pool[: -data.test_examples]
    asked = {entry.example.prompt for entry in tested}
    left = [entry for entry in pool if entry.example.prompt not in asked]
    if not left:
        raise DataError(
            f"no training example is left: the prompts of all {len(pool)} are also test prompts; "
            "set data.test_source to other problems"
        )
    return Chosen(
        train=left[: data.examples or None],
        test=tested[: data.test_examples or None],
        duplicates=duplicates,
        test_overlap=len(pool) - len(left),
    )
