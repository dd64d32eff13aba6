"""Scripted teachers err as often, and as often together, as they are told to."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from lorapar_core.config import ScriptConfig, System
from lorapar_core.data.arithmetic import problems as arithmetic_problems
from lorapar_core.data.choice import entry_of
from lorapar_core.data.lab import problems as lab_problems
from lorapar_core.data.shapes import Example, reference_of
from lorapar_core.errors import ConfigError, DataError
from lorapar_core.recipe import parse_recipe
from lorapar_core.teachers.ballot import Question, ids_digest
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.scripted import ScriptedTeacher, errs
from lorapar_core.true_system import true_system
from tasks.action import UNKNOWN, Action
from tasks.vote import vote

IDS = [f"example-{n}" for n in range(20_000)]


def errors(name: str, script: ScriptConfig, truth: System = System.ONE) -> np.ndarray:
    return np.array([errs(name, i, truth, script) for i in IDS])


def within(found: float, wanted: float, spread: float) -> bool:
    """Whether it lies within five standard errors: by chance it doesn't once in two million."""
    return abs(found - wanted) < 5 * spread / sqrt(len(IDS))


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("truth", list(System))
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_error_rates(rate: float, truth: System, correlation: float) -> None:
    other = {"error_1": 0.4, "error_2": 0.4, "correlation": correlation}
    script = ScriptConfig.model_validate({**other, f"error_{truth.value}": rate})
    assert within(errors("a", script, truth).mean(), rate, sqrt(rate * (1 - rate)) + 1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_correlation(correlation: float, rate: float) -> None:
    script = ScriptConfig(error_1=rate, correlation=correlation)
    each = [errors(name, script) for name in ("a", "b", "c")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = float((each[one] & each[other]).mean())
        wanted = correlation * rate * (1 - rate) + rate * rate
        assert within(both, wanted, sqrt(wanted * (1 - wanted)))
        found = np.corrcoef(each[one], each[other])[0, 1]
        assert within(found, correlation, sqrt(2 / rate) + 1e-12)
    if correlation == 1:
        assert (each[0] == each[1]).all()


def test_where_they_share_the_better_teacher_errs_only_with_the_worse() -> None:
    better = errors("a", ScriptConfig(error_1=0.1, correlation=1))
    worse = errors("b", ScriptConfig(error_1=0.3, correlation=1))
    assert (worse | ~better).all()
    assert (worse & ~better).any()


def test_name_and_seed_decide_and_nothing_else() -> None:
    script = ScriptConfig(error_1=0.3)
    first = errors("a", script)
    assert (first == errors("a", script)).all()
    assert (first != errors("b", script)).mean() > 0.3
    assert (first != errors("a", ScriptConfig(error_1=0.3, seed=1))).mean() > 0.3


def test_the_truth_is_the_number_of_worked_lines() -> None:
    made = [
        *lab_problems(split="train", count=200, single_step_share=0.5, seed=0),
        *arithmetic_problems(split="train", count=200, single_step_share=0.5, seed=0),
    ]
    for problem in made:
        truth = System.ONE if problem.steps == 1 else System.TWO
        assert true_system(problem.answer) is truth


@pytest.mark.parametrize("answer", ["#### 7", "seven", "", "3 + 4 = 7"])
def test_an_answer_without_working_has_no_known_system(answer: str, tmp_path: Path) -> None:
    teacher = ScriptedTeacher("a", ScriptConfig())
    with (
        Ledger.opened(tmp_path / "ledger") as ledger,
        pytest.raises(DataError, match=r"has no worked line before ####; .* ask other teachers"),
    ):
        teacher.vote([Question("x", "?", answer)], ledger)


@pytest.mark.parametrize(("rate", "turned"), [(0.0, False), (1.0, True)])
def test_the_ledger_gets_the_votes(rate: float, turned: bool, tmp_path: Path) -> None:
    made = lab_problems(split="train", count=40, single_step_share=0.5, seed=0)
    questions = [
        Question(entry_of(example, "lab").id, example.prompt, example.answer)
        for p in made
        if (example := Example(p.prompt, p.answer, reference_of(p.answer)))
    ]
    teacher = ScriptedTeacher("a", ScriptConfig(error_1=rate, error_2=rate))
    with Ledger.opened(tmp_path / "ledger") as ledger:
        assert teacher.vote(questions, ledger) == {}
        votes = {i: ballot.label for i, ballot in ledger.votes.items()}
    assert votes == {
        question.example_id: 1 if (problem.steps == 1) is not turned else 2
        for question, problem in zip(questions, made, strict=True)
    }


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, 0.2), (2.0, 0.4), (0.0, 0.0), (9.0, 1.0)])
def test_without_a_part_to_play_it_errs_that_many_times_as_often(
    factor: float, wrong: float
) -> None:
    script = ScriptConfig(error_1=0.2, error_2=0.2, without_role_play=factor)
    ids = [str(i) for i in range(4000)]
    played, plain = (
        {i for i in ids if errs("a", i, System.TWO, script, role_play=role_play)}
        for role_play in (True, False)
    )
    assert len(played) / 4000 == pytest.approx(0.2, abs=0.03)
    assert len(plain) / 4000 == pytest.approx(wrong, abs=0.03)
    assert played <= plain or plain <= played


def action(teacher: dict[str, object]) -> Action:
    fields = {"name": "a", "provider": "scripted", **teacher}
    recipe = parse_recipe({"data": {"source": "lab"}, "teachers": [fields]})
    return vote(
        recipe,
        recipe.teachers[0],
        name="a",
        examples=UNKNOWN,
        ids=["x"],
        ids_digest=ids_digest(["x"]),
        units=1,
        model=None,
        replayed=None,
        target="it",
    )


def test_the_script_is_in_the_key_of_its_votes_which_are_free() -> None:
    scripted = [action({"script": {"error_1": rate}}) for rate in (0.1, 0.1, 0.2)]
    assert scripted[0].config == scripted[1].config != scripted[2].config
    assert (scripted[0].units, scripted[0].ledger) == (0, "")


def test_the_keys_of_other_teachers_votes_know_no_script() -> None:
    """Else every vote that was ever bought would be bought again."""
    bought = action({"provider": "litellm", "model": "openai/gpt-4o-mini"})
    assert "script" not in bought.config["teacher"]
    assert (bought.units, bought.ledger) == (1, bought.config["asked"])


@pytest.mark.parametrize(
    ("source", "teacher", "message"),
    [
        ("gsm8k", {"script": {}}, r"teachers \['a'\] are scripted, and nobody knows .* 'gsm8k'"),
        ("lab", {}, "provider: scripted and script belong together"),
        ("lab", {"provider": "local", "script": {}}, "provider: scripted and script belong"),
        ("lab", {"script": {"error_1": 1.1}}, "less than or equal to 1"),
        ("lab", {"script": {"errors": 1}}, "unknown field"),
        ("lab", {"script": {}, "calibration": "batch"}, "calibration needs the log-probabilities"),
        ("lab", {"script": {}, "api_base": "http://x"}, "a scripted teacher takes no api_base"),
    ],
)
def test_what_is_no_script_is_refused(
    source: str, teacher: dict[str, object], message: str
) -> None:
    fields = {"name": "a", "provider": "scripted", **teacher}
    with pytest.raises(ConfigError, match=message):
        parse_recipe({"data": {"source": source}, "teachers": [fields]})
