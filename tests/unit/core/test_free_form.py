"""The rewards of free-form answers and of code: what a reference comes down to, and what earns."""

from __future__ import annotations

import warnings
from decimal import Decimal

import pytest

from lorapar_core.answers import HASH, TAGS, AnswerFormat
from lorapar_core.errors import SandboxError
from lorapar_core.rewards.code import SYNTAX_SHARE, code, compiles, execution, program_of
from lorapar_core.rewards.free_form import final_answer, free_form
from lorapar_core.rewards.overlap import code_tokens, token_f1, words
from lorapar_core.rewards.registry import reward_named
from lorapar_core.row_tests import as_reference, held_tests

TESTS = as_reference("assert double(2) == 4\nassert double(-1) == -2")
DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", Decimal(42)),
        ("$1,200.50", Decimal("1200.5")),
        ("**42**.", Decimal(42)),
        ("First add. The answer is 42.", Decimal(42)),
        ("Because.\nFinal Answer: $-3$", Decimal(-3)),
        ("So we get \\boxed{1} or rather \\boxed{7}.", Decimal(7)),
        ("It is \\boxed{x + 1}, near 5", None),
        ("B", "b"),
        ("(b)", "b"),
        ("[C].", "c"),
        ("(B) Paris", "b"),
        ("D) all of these", "d"),
        ("We see that the correct answer is (A).", "a"),
        ("the correct answer is answer3", "answer3"),
        ('The answer is "yes".', "yes"),
        ("The answer is a long story", None),
        ("B. Paris", None),
        ("C. S. Lewis", None),
        ("A dog", None),
        ("I", None),
        ("a) bread b) milk", None),
        ("(a) bread\nand milk", None),
        ("In 1912 the Titanic sank.", None),
        ("The answer is 42, I think\nor not", None),
        ("So the answer is\n(B)", "b"),
        ("The correct option is (B).", "b"),
        ("The answer is option C.", "c"),
        ("\\boxed{\\text{B}}", "b"),
        ("The answer is \\(-7\\).", Decimal(-7)),
        ("Yes.", "yes"),
        ("The answer is true", "true"),
        ("answer3", "answer3"),
        ("The answer is Paris.", None),
        ("Paris", None),
        ("", None),
    ],
)
def test_what_a_reference_comes_down_to(text: str, answer: Decimal | str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("completion", "reference", "form", "reward"),
    [
        ("It makes 12 in all", "The answer is 12.", HASH, 1),
        ("The answer is 12. That took 3 steps.", "12", HASH, 1),
        ("It took 3 steps to get 12. It has 3 parts.", "12", HASH, 0),
        ("The answer is 12", "12", HASH, 1),
        ("12", "13", HASH, 0),
        ("none", "13", HASH, 0),
        ("13 <answer>12.0</answer> of 14", "12", TAGS, 1),
        ("B. Paris", "(B)", HASH, 1),
        ("B: Paris", "B", HASH, 1),
        ("The answer is B because it is", "B", HASH, 1),
        ("The answer is C because B is wrong", "B", HASH, 0),
        ("Because it is", "B", HASH, 0),
        ("<reasoning>(A)?</reasoning>\n<answer>\n(B) Paris\n</answer>", "B", TAGS, 1),
        ("answer3", "the correct answer is answer3", HASH, 1),
        ("the correct answer is answer2", "the correct answer is answer3", HASH, 0),
        ("the correct answer", "the correct answer is answer3", HASH, 0),
        ("The Cat sat!", "a cat sat", HASH, 1),
        ("cat", "The cat sat.", HASH, 2 / 3),
        ("<answer>cat</answer> and much more", "The cat sat.", TAGS, 2 / 3),
        ("B", "B. Paris", HASH, 2 / 3),
        ("C. Lyon", "B. Paris", HASH, 0),
        ("", "The cat sat.", HASH, 0),
    ],
)
def test_free_form(completion: str, reference: str, form: AnswerFormat, reward: float) -> None:
    assert free_form(completion, reference, form) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("Paris is in France.\n#### B", "B"),
        ("#### B", "B"),
        ("#### (B) Paris", "(B)"),
        ("#### answer3", "the correct answer is answer3"),
        ("x\n#### yes", "yes"),
        ("So the answer is 42, because 6*7.", "42"),
        ("The answer is 42 apples out of 50.", "42"),
        ("The answer is 12. That took 3 steps.", "12"),
        ("The correct answer is option B", "B"),
        ("Option B", "B"),
        ("The correct option is (B).", "B"),
        ("So B is correct.", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("The answer is \\(B\\)", "B"),
        ("The answer is\nB", "B"),
        ("The answer is answer3 because it is warm", "the correct answer is answer3"),
        ("The answer is **B**", "B"),
        ("**Answer:** B", "B"),
        ("**Final answer**: (b)", "B"),
        ("The answer is C: x", "C"),
        ("The answer is B - Paris", "B"),
        ("The answer is B) Paris, not A) Rome", "B"),
        ("B is the correct answer.", "B"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is\n42 of 50", "42"),
        ("Yes, it is", "The answer is yes"),
        ("yes", "the answer is yes."),
        ("answer3\n\nBecause x", "the correct answer is answer3"),
        ("#### 42\n\nNext: 7", "42"),
        ("#### 42 apples of 50", "42"),
        ("The answer is 1,234.5, not 7", "1234.5"),
        ("The answer is $-3$, or so", "-3"),
        ("D. I choose D", "D"),
        ("The answer is B.\n\nExplanation: A) is wrong", "B"),
        ("**B** is correct", "B"),
        ("**B) Paris**\n\nIt is", "B"),
    ],
)
def test_a_right_answer_earns_all(completion: str, reference: str) -> None:
    assert free_form(completion, reference, HASH) == 1
    tagged = f"<reasoning>\nIs it (A) or 9?\n</reasoning>\n<answer>\n{completion}\n</answer>"
    assert free_form(tagged, reference, TAGS) == 1


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("A) bread\nB) milk\nC) tea\nD) salt", "A"),
        ("A. bread\nB. milk", "A"),
        ("Is the answer: A? No. C", "A"),
        ("The answer is A lot of work", "A"),
        ("A lot", "A"),
        ("The answer is D-Day, in a way", "D"),
        ("A cat is B", "A"),
        ("The answer is not B, it is C", "B"),
        ("The answer is 50, not 42", "42"),
        ("The answer is yes or no", "The answer is no"),
        ("no one knows", "the answer is no"),
        ("answer2 or answer3", "the correct answer is answer3"),
    ],
)
def test_a_wrong_or_open_answer_earns_nothing(completion: str, reference: str) -> None:
    assert free_form(completion, reference, HASH) == 0
    assert free_form(f"<answer>\n{completion}\n</answer>", reference, TAGS) == 0


def test_tests_are_no_answer_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"the row carries tests; use the reward `code`"):
        free_form(TESTS, TESTS, HASH)


def test_words_are_those_of_squad() -> None:
    said = "The U.S.A.’s  “best” well-known An apple"
    assert words(said) == ["usas", "best", "wellknown", "apple"]
    assert words("?!") == ["?!"]
    assert words("The") == ["the"]
    assert code_tokens("a_1 += f(x)\n") == ["a_1", "+", "=", "f", "(", "x", ")"]
    assert token_f1([], []) == 0


@pytest.mark.parametrize(
    ("completion", "form", "program"),
    [
        ("x = 1\n", HASH, "x = 1\n"),
        ("Here:\n```python\nx = 1\n```\nIt is 1.\n```\ny\n```", HASH, "x = 1\n"),
        ("```\nx = 1", HASH, "x = 1"),
        ("```bash\npip install y\n```\nThen:\n```python\nx = 1\n```", HASH, "x = 1\n"),
        ("```\n$ ls\n```\nThen:\n```\nx = 1\n```", HASH, "x = 1\n"),
        ("```\nx = 1\n```\n```text\n1\n```", HASH, "x = 1\n"),
        ("```Py\nx = 1\n```\nUse:\n```py\nprint(x)\n```", HASH, "x = 1\n"),
        ("~~~python\nx = 1\n~~~", HASH, "x = 1\n"),
        ("````md\n```\nx = 1\n```\n````", HASH, "```\nx = 1\n```\n"),
        ("Sure: ```python\r\nx = 1\r\n```", HASH, "x = 1\r\n"),
        ("1. So:\n   ```python\n   x = 1\n   ```\nIt is.", HASH, "x = 1\n"),
        ("```python\nx = [\n    1,  # ```y```\n]\n```", HASH, "x = [\n    1,  # ```y```\n]\n"),
        ("    x = 1\n    y = 2", HASH, "x = 1\ny = 2"),
        ("<answer>\nx = 1\n</answer>", TAGS, "\nx = 1\n"),
        ("```\nno\n```<answer>```py\nx = 1\n```</answer>", TAGS, "x = 1\n"),
    ],
)
def test_the_program_of_a_completion(completion: str, form: AnswerFormat, program: str) -> None:
    assert program_of(completion, form) == program


def test_code_without_tests_earns_for_syntax_and_for_tokens() -> None:
    assert code(DOUBLE, DOUBLE, HASH) == 1
    assert code(f"Sure:\n```python\n{DOUBLE}```", DOUBLE, HASH) == 1
    assert code("zzz", DOUBLE, HASH) == SYNTAX_SHARE
    broken = code(DOUBLE + ")", DOUBLE, HASH)
    assert 1 - SYNTAX_SHARE - 0.1 < broken < 1 - SYNTAX_SHARE
    assert code("", DOUBLE, HASH) == code("# nothing", DOUBLE, HASH) == 0


def test_syntax_counts_only_where_the_reference_is_python() -> None:
    query = "SELECT name FROM people WHERE age > 3;"
    assert code(query, query, HASH) == 1
    assert code("pass", query, HASH) == 0


def test_code_with_tests_is_run() -> None:
    for reward in (reward_named(name, sandbox="limits") for name in ("code", "execution")):
        assert reward(DOUBLE, TESTS, HASH) == 1
        assert reward(f"<answer>\n```python\n{DOUBLE}```\n</answer>", TESTS, TAGS) == 1
        assert reward("def double(x): return x + 2", TESTS, HASH) == 0
        assert reward("raise SystemExit(0)", TESTS, HASH) == 0
        assert reward("I can't.", TESTS, HASH) == 0


def test_an_answer_is_never_run_for_tests() -> None:
    with pytest.raises(ValueError, match=r"the row carries no tests; .* the reward `code`"):
        execution(DOUBLE, "x = 1", HASH, sandbox="limits")


def test_a_sandbox_that_fails_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorapar_core.sandbox.tools", tuple)
    for name in ("code", "execution"):
        with pytest.raises(SandboxError):
            reward_named(name, sandbox="isolated")(DOUBLE, TESTS, HASH)


def test_tests_keep_their_text_in_a_reference() -> None:
    assert held_tests(as_reference("assert f(1)")) == "assert f(1)"
    assert held_tests("assert f(1)") is None
    for wrong in ("assert f(", "x = '\0'", "(" * 10_000):
        with pytest.raises(SyntaxError):
            as_reference(wrong)


def test_a_program_with_a_doubtful_escape_is_read_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("always", category=SyntaxWarning)  # as outside of tests
        with warnings.catch_warnings(record=True) as seen:
            assert compiles("x = '\\d'")
            assert not compiles("1x")
    assert not seen
