"""What holds of numbers, answers, rewards, rows and examples for any text."""

from __future__ import annotations

import json
import random
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar_core.answers import HASH, TAGS, AnswerFormat, is_right, matches
from lorapar_core.config import DataConfig
from lorapar_core.data.arithmetic import problems
from lorapar_core.data.choice import choose, entry_of
from lorapar_core.data.equations import tidy, value_of
from lorapar_core.data.rows import read_rows
from lorapar_core.data.shapes import Example, example_from, reference_of
from lorapar_core.numbers import find_numbers, parse_number, plain
from lorapar_core.parquet import read_table, write_table
from lorapar_core.rewards.code import code, compiles
from lorapar_core.rewards.free_form import free_form
from lorapar_core.rewards.overlap import code_tokens, token_f1, words
from lorapar_core.rewards.registry import REWARDS

DECIMALS = st.decimals(
    allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12), max_value=10**12
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WORDS = TEXT.filter(lambda text: bool(text.strip()))
# Pieces that completions are made of, in any order.
MARKS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", "####", "#### ", "\n", " ", "-")
PARTS = ("$", "1", "8", "1,234", ".", ",", "%", "5.", "x", "٣", "\N{MINUS SIGN}", "NaN", "1e9")
COMPLETIONS = st.lists(st.sampled_from([*MARKS, *PARTS]), max_size=25).map("".join)
FORMATS = st.sampled_from([HASH, TAGS])
TOKENS = st.lists(st.sampled_from("abcde"), max_size=12)
# The one that runs programs has tests of its own.
TEXT_REWARDS = {name: reward for name, reward in REWARDS.items() if name != "execution"}


@given(DECIMALS)
def test_a_number_is_read_as_it_was_written(number: Decimal) -> None:
    for text in (plain(number), f"{number:,}", f" {number}\n", f"{number:f}%"):
        assert parse_number(text) == number
    assert parse_number(f"${abs(number):,}") == abs(number)


@given(st.lists(DECIMALS, max_size=6))
def test_numbers_are_found_in_order(numbers: list[Decimal]) -> None:
    text = "".join(f"so {number:,} is it; " for number in numbers)
    assert find_numbers(text) == numbers


@given(COMPLETIONS | TEXT)
def test_the_one_number_is_among_those_found(text: str) -> None:
    number = parse_number(text)
    found = find_numbers(text)
    if number is not None:
        assert [abs(value) for value in found] == [abs(number)]
    assert all(value.is_finite() for value in found)


@given(COMPLETIONS | TEXT, TEXT | DECIMALS.map(str), FORMATS)
def test_no_completion_breaks_a_reward(completion: str, reference: str, form: AnswerFormat) -> None:
    for reward in TEXT_REWARDS.values():
        assert reward(completion, reference, form) <= 1
    for name in ("free_form", "code"):
        assert REWARDS[name](completion, reference, form) >= 0
    for name in ("correctness", "integer", "strict_format", "loose_format"):
        assert REWARDS[name](completion, reference, form) in (0, 1)
    # What is right by the letter has the format's parts.
    assert not form.strict_format(completion) or form.loose_format(completion)
    for strict in (True, False):
        is_right(completion, reference, form, strict=strict)


@given(st.integers(-(10**9), 10**9), TEXT.filter(lambda t: "<" not in t and "#" not in t))
def test_a_well_formed_completion_earns_everything(answer: int, work: str) -> None:
    work = f"x{work}"
    completions = (
        (f"<reasoning>\n{work}\n</reasoning>\n<answer>\n{answer}\n</answer>", TAGS),
        (f"{work}\n#### {answer}", HASH),
    )
    for completion, form in completions:
        earned = {name: r(completion, str(answer), form) for name, r in TEXT_REWARDS.items()}
        assert {earned[name] for name in TEXT_REWARDS if name != "code"} == {1}
        assert form.strict(completion) == form.flexible(completion) == answer
        wrong = REWARDS["correctness"](completion, str(answer + 1), form)
        assert wrong == 0


@given(TOKENS, TOKENS)
def test_token_f1_is_a_symmetric_share(found: list[str], expected: list[str]) -> None:
    f1 = token_f1(found, expected)
    assert f1 == token_f1(expected, found)
    assert 0 <= f1 <= 1
    assert (f1 == 1) == (bool(found) and sorted(found) == sorted(expected))
    assert (f1 == 0) == (not set(found) & set(expected))


@given(TOKENS, TOKENS, st.randoms(use_true_random=False))
def test_token_f1_is_the_mean_of_precision_and_recall(
    found: list[str], expected: list[str], shuffler: random.Random
) -> None:
    common, left = 0, list(expected)
    for token in found:
        if token in left:
            left.remove(token)
            common += 1
    f1 = token_f1(found, expected)
    if common:
        precision, recall = Fraction(common, len(found)), Fraction(common, len(expected))
        assert f1 == float(2 * precision * recall / (precision + recall))
    shuffler.shuffle(found)
    assert token_f1(found, expected) == f1
    if f1:
        assert token_f1([*found, "wrong"], expected) < f1


@given(COMPLETIONS | WORDS | st.sampled_from(["a", "The", "?!", "C++"]))
def test_a_text_earns_everything_against_itself(text: str) -> None:
    assert token_f1(words(text), words(text)) == bool(text.strip())
    assert token_f1(code_tokens(text), code_tokens(text)) == bool(text.strip())
    if text.strip() and "<answer>" not in text:
        assert free_form(text, text, HASH) == 1
        assert code(text, text, TAGS) == 1


SHORT = (
    "(B)",
    "B",
    "b.",
    "yes",
    "answer3",
    "42",
    "The answer is ",
    "\\boxed{",
    "}",
    "A) x",
    "because ",
)
ANSWERS = st.lists(st.sampled_from([*SHORT, *MARKS, *PARTS]), min_size=1, max_size=8).map("".join)


@given(ANSWERS | WORDS)
def test_a_rows_own_answer_earns_all_of_free_form(answer: str) -> None:
    """As `prepare` makes the reference of it."""
    if answer.strip():
        assert free_form(answer, reference_of(answer), HASH) == 1


@given(COMPLETIONS | TEXT | st.text("()[]{}:'\"\\\n\0 =x1", max_size=80))
def test_whether_a_text_compiles_is_a_yes_or_no(text: str) -> None:
    assert compiles(text) in (True, False)
    assert not compiles(f"{text}\n\nreturn")


@given(WORDS)
def test_a_text_matches_itself_in_any_case(text: str) -> None:
    assert matches(text, text)
    assert matches(f"  {text}\n", text)
    assert not matches(None, text)


@given(st.integers(0, 10**9), st.sampled_from(["train", "test"]), st.floats(0, 1))
@settings(max_examples=25)
def test_problems_give_their_own_answer(seed: int, split: Any, share: float) -> None:
    made = problems(split=split, count=30, single_step_share=share, seed=seed)
    assert len({problem.prompt for problem in made}) == 30
    for problem in made:
        assert HASH.strict_format(problem.answer)
        assert is_right(problem.answer, reference_of(problem.answer), HASH, strict=True)
        assert 1 <= problem.steps <= 4


EQUATIONS = st.recursive(
    st.integers(0, 999).map(lambda n: f"{n}.0"),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda parts: f"( {' '.join(parts)} )"
    ),
    max_leaves=5,
)


@given(EQUATIONS)
def test_a_tidied_equation_has_the_same_value(equation: str) -> None:
    assert value_of(tidy(equation)) == value_of(equation)


@given(st.lists(st.fixed_dictionaries({"prompt": WORDS, "answer": WORDS}), max_size=8))
@settings(max_examples=40, deadline=None)  # the first example imports pyarrow
def test_rows_survive_every_kind_of_file(rows: list[dict[str, str]]) -> None:
    schema = pa.schema([("prompt", pa.string()), ("answer", pa.string())])
    with tempfile.TemporaryDirectory() as folder:
        lines, listed, table = (Path(folder) / f"r.{kind}" for kind in ("jsonl", "json", "parquet"))
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
        listed.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
        columns = {name: [row[name] for row in rows] for name in schema.names}
        write_table(table, columns, schema)
        assert read_table(table) == columns
        for path in (lines, listed, table):
            assert [row for _, row in read_rows(path)] == rows


@given(WORDS, WORDS | st.integers() | DECIMALS)
def test_an_example_keeps_its_words(prompt: str, answer: str | int | Decimal) -> None:
    example = example_from({"prompt": prompt, "answer": answer}, place="here")
    assert example.prompt == prompt.strip()
    number = parse_number(answer) if isinstance(answer, str) else Decimal(answer)
    if number is None:
        assert example.answer.strip() == str(answer).strip()
    else:
        assert parse_number(example.reference) == HASH.strict(example.answer) == number
    assert example.reference in example.answer


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_choosing_does_not_look_at_the_order(
    n: int, held: int, seed: int, shuffler: random.Random
) -> None:
    entries = [entry_of(Example(f"{i}?", str(i), str(i)), "set") for i in range(n)]
    data = DataConfig(test_examples=min(held, n - 1), seed=seed)
    chosen = choose(entries, None, data=data)
    shuffler.shuffle(entries)
    assert choose(entries, None, data=data) == chosen
    assert {e.id for e in [*chosen.train, *chosen.test]} == {e.id for e in entries}
    assert len(chosen.test) == data.test_examples
