"""Word problems: MAWPS and ASDiv-A to train on, worked a line a step, and SVAMP to test on.

    python -m deployments.word_problems.rows SVAMP [--out ROWS]

SVAMP is a clone of github.com/arkilpatel/SVAMP at 689d7cc (MIT; its training rows stem from MAWPS,
without a licence file, and from ASDiv, CC BY-NC 4.0). Writes train.jsonl, test.jsonl, and
votes.parquet: problems that their set's own equation solves in one operation are called System 1's,
all others System 2's.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from artifacts.durable import write_whole
from lorapar_core.data.choice import entry_of, placed_examples
from lorapar_core.data.sources import Source
from lorapar_core.errors import DataError, LoraparError
from lorapar_core.numbers import plain
from lorapar_core.parquet import write_table
from lorapar_core.true_system import true_system

TRAIN = Path("data/mawps-asdiv-a_svamp/train.csv")
TEST = Path("SVAMP.json")
ROWS = Path(__file__).parent / "rows"
VOTES = pa.schema([("example_id", pa.string()), ("label", pa.int8())])
DECIMALS = 2
Working = tuple[Fraction, list[str]]
"""A value, and the lines that lead to it."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("svamp", type=Path, help="a clone of github.com/arkilpatel/SVAMP")
    parser.add_argument("--out", type=Path, default=ROWS, help="where the rows are written")
    options = parser.parse_args(arguments)
    try:
        write_rows(options.svamp, options.out)
    except (LoraparError, OSError) as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 1
    return 0


def write_rows(svamp: Path, out: Path) -> None:
    """Write the three files into `out`, and say how many rows they have.

    Raises:
        DataError: the clone isn't one.
        OSError: a file can't be read or written.
    """
    for path in (TRAIN, TEST):
        if not (svamp / path).is_file():
            raise DataError(
                f"{svamp} holds no {path}; give a clone of https://github.com/arkilpatel/SVAMP"
            )
    out.mkdir(parents=True, exist_ok=True)
    train, left_out = training(svamp / TRAIN)
    for name, rows, unworked in (("train", train, left_out), ("test", testing(svamp / TEST), [])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(out / f"{name}.jsonl", text.encode(), tmp=out)
        told = {"file": str(out / f"{name}.jsonl"), "rows": len(rows), "left_out": len(unworked)}
        print(json.dumps({**told, "such_as": unworked[:3]}, ensure_ascii=False))
    source = Source("file", ".jsonl")
    examples = [example for _, example in placed_examples(source, out / "train.jsonl")]
    labels = {entry_of(e, source.name).id: int(true_system(e.answer)) for e in examples}
    columns = {"example_id": list(labels), "label": list(labels.values())}
    write_table(out / "votes.parquet", columns, VOTES)


def training(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of MAWPS and ASDiv-A whose equation gives their answer in numbers of at most two
    decimals, and why others have none.

    Raises:
        DataError: the file is none of the published form.
    """
    rows, left_out = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                numbers = [Fraction(number) for number in row["Numbers"].split()]
                question, answer = _filled(row["Question"], numbers), Fraction(row["Answer"])
                tokens = iter(row["Equation"].split())
                worked = _prefix(tokens, numbers)
                if (rest := next(tokens, None)) is not None:
                    raise _Unworked(f"{row['Equation']} goes on with {rest}")
                rows.append(_row(question, worked, answer))
            except (_Unworked, ZeroDivisionError) as error:
                left_out.append(f"{row['Question']}: {error}")
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise DataError(f"{path}: no row of MAWPS's ({error!r}): {row}") from error
    if not rows:
        raise DataError(f"{path}: no row of MAWPS's can be worked; is it the published file?")
    return rows, left_out


def testing(path: Path) -> list[dict[str, str]]:
    """SVAMP's 1,000 problems. Nobody learns from their answers, so these are not worked.

    Raises:
        DataError: the file is none of the published form.
    """
    try:
        return [
            {
                "prompt": f"{_sentence(row['Body'])} {row['Question'].strip()}",
                "answer": f"#### {_written(Fraction(str(row['Answer'])))}",
            }
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: no problems of SVAMP's ({error!r})") from error


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!", ",")) else f"{text}."


class _Unworked(ValueError):
    """An equation that doesn't lead to its row's answer."""


def _row(prompt: str, worked: Working, answer: Fraction) -> dict[str, str]:
    value, lines = worked
    if value != answer or not lines:
        raise _Unworked(f"the equation gives {_written(value)}, the answer is {_written(answer)}")
    return {"prompt": prompt, "answer": "\n".join([*lines, f"#### {_written(answer)}"])}


def _prefix(tokens: Iterator[str], numbers: Sequence[Fraction]) -> Working:
    """Of "* number0 number1"."""
    token = next(tokens, "")
    if token in _OPERATORS:
        left = _prefix(tokens, numbers)
        return _step(token, left, _prefix(tokens, numbers))
    found = re.fullmatch(r"number(\d+)", token)
    if found and int(found[1]) < len(numbers):
        return numbers[int(found[1])], []
    try:
        return Fraction(token), []
    except ValueError as error:
        raise _Unworked(f"{token!r} is no number of the problem's") from error


_OPERATORS = {
    "+": Fraction.__add__,
    "-": Fraction.__sub__,
    "*": Fraction.__mul__,
    "/": Fraction.__truediv__,
}


def _step(operator: str, left: Working, right: Working) -> Working:
    value = _OPERATORS[operator](left[0], right[0])
    line = f"{_written(left[0])} {operator} {_written(right[0])} = {_written(value)}"
    return value, [*left[1], *right[1], line]


def _written(value: Fraction) -> str:
    """As a decimal number of at most `DECIMALS` places.

    Raises:
        _Unworked: it has more.
    """
    scaled = value * 10**DECIMALS
    if scaled.denominator != 1:
        raise _Unworked(f"{value} has more than {DECIMALS} decimals")
    return plain(Decimal(scaled.numerator).scaleb(-DECIMALS))


def _filled(question: str, numbers: Iterable[Fraction]) -> str:
    """The question with its numbers in place and its punctuation where it belongs."""
    told = [_written(number) for number in numbers]

    def number(found: re.Match[str]) -> str:
        if int(found[1]) >= len(told):
            raise _Unworked(f"{found[0]} is not among its numbers")
        return told[int(found[1])]

    text = re.sub(r"number(\d+)", number, question)
    text = re.sub(r"\s+([.,;:?!%])", r"\1", text)
    return re.sub(r"\s+('s|n't|’ s)", lambda found: found[1].replace(" ", ""), text).strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
