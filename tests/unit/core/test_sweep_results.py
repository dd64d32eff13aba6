"""The stage that compares a sweep's points: what it says, of what, and what it refuses."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import files
from tiny_sweep import HOSTILE, PROBLEMS, Swept, drawn, predictions

from flows.sweeps import SWEEPS
from lorapar_core.errors import DataError
from lorapar_core.label_truth import error_rates, mean_rates
from lorapar_core.paper_sweeps import SOURCES, paper_figures
from lorapar_core.parquet import write_table
from lorapar_core.prepare import EXAMPLES
from lorapar_core.tally import LABELS
from lorapar_core.teachers.ballot import Ballot
from lorapar_core.teachers.tables import write_votes
from lorapar_core.true_system import true_system


def order(folder: Path, sft_rl: float, rl_sft: float, **how: Any) -> Swept:
    return Swept(folder, "order", **how).fill({"SFT then RL": sft_rl, "RL then SFT": rl_sft})


def test_a_large_difference_holds_and_its_opposite_fails(tmp_path: Path) -> None:
    for k, (shares, said) in enumerate([((0.9, 0.3), "holds"), ((0.3, 0.9), "fails")]):
        results = order(tmp_path / str(k), *shares).compare()
        claim = results["claims"][0]
        assert claim["text"] == "SFT then RL above RL then SFT"
        assert claim["verdict"] == said
        assert claim["estimate"] == pytest.approx(shares[0] - shares[1], abs=0.15)
        assert claim["low"] <= claim["estimate"] <= claim["high"]
        assert claim["paper"] == pytest.approx(0.8165 - 0.6846)


def test_no_difference_is_open(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.5, 0.5)
    for seed in swept.seeds:
        swept.answer("RL then SFT", seed, "grpo", drawn(0.5, seed))
        swept.answer("SFT then RL", seed, "grpo", drawn(0.5, seed))
    claim = swept.compare()["claims"][0]
    assert (claim["verdict"], claim["estimate"], claim["p"]) == ("open", 0.0, 1.0)


def test_answers_are_paired_by_problem_whatever_their_order(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.6, 0.5)
    before = swept.compare()
    right = drawn(0.5, 2000)
    shuffled = random.Random(0).sample(range(len(PROBLEMS)), len(PROBLEMS))
    role = "predictions/RL then SFT/0/grpo"
    assert before["points"][1]["phases"][1]["by_seed"][0] == pytest.approx(
        sum(right) / 60, abs=1e-6
    )
    predictions(swept.inputs[role], [right[k] for k in shuffled], [PROBLEMS[k] for k in shuffled])
    assert swept.compare("again") == before


def test_points_tell_their_mean_their_seeds_and_what_they_keep(tmp_path: Path) -> None:
    results = order(tmp_path, 0.8, 0.4).compare()
    point = results["points"][0]
    assert [phase["after"] for phase in point["phases"]] == ["sft", "grpo"]
    last = point["phases"][-1]
    assert last["estimate"] == pytest.approx(sum(last["by_seed"]) / 3, abs=1e-5)
    assert last["flexible"] == 1.0
    assert last["over"] == "seeds and problems"
    assert point["kept_share"] == {"1": 0.4, "2": pytest.approx(0.3)}
    assert point["paper"] == [68.69, 81.65]
    assert results["base"]["low"] < results["base"]["accuracy"] < results["base"]["high"]


def test_a_lost_trial_leaves_its_partners_seeds(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.9, 0.3)
    for phase in ("sft", "grpo"):
        del swept.inputs[f"predictions/RL then SFT/1/{phase}"]
    results = swept.compare()
    assert [claim["seeds"] for claim in results["claims"]] == [[0, 2], [0, 1, 2]]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "1 of 3 seeds did not finish" in page


def test_a_lost_point_makes_its_claims_unmeasured(tmp_path: Path) -> None:
    swept = Swept(tmp_path, "order").fill({"SFT then RL": 0.9})
    swept.config["points"][1]["phases"] = []
    results = swept.compare()
    assert [claim["verdict"] for claim in results["claims"]] == ["unmeasured", "holds"]
    assert results["points"][1]["phases"] == []
    page = (tmp_path / "out" / "report.md").read_text()
    assert "did not finish" in page
    assert "unmeasured: no seed has all its points" in page


def test_one_seed_says_that_it_says_nothing_of_another(tmp_path: Path) -> None:
    results = order(tmp_path, 0.9, 0.3, seeds=(5,)).compare()
    assert results["claims"][0]["over"] == "problems"
    assert "1 seed, problems" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_has_its_page(tmp_path: Path, sweep: str) -> None:
    swept = Swept(tmp_path, sweep, seeds=(0, 1))
    swept.fill({label: 0.2 + k / 40 for k, label in enumerate(swept.labels)})
    results = swept.compare()
    assert len(results["claims"]) == len(swept.config["claims"])
    assert results["paper"] == SOURCES[sweep]
    page = (tmp_path / "out" / "report.html").read_text()
    for claim in results["claims"]:
        assert claim["text"] in page
        assert claim["verdict"] in page
    assert HOSTILE not in page
    assert "<script>alert" not in page
    assert page.count("<tr>") > len(results["points"]) + len(results["claims"])


def test_theta_is_drawn_beside_its_controls_and_the_paper(tmp_path: Path) -> None:
    swept = Swept(tmp_path, "theta", seeds=(0, 1))
    swept.fill({label: 0.2 + k / 40 for k, label in enumerate(swept.labels)})
    swept.compare()
    page = (tmp_path / "out" / "report.html").read_text()
    drawing, claims = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert 'aria-label="accuracy over theta"' in drawing
    assert "importance above random at theta 0.9: " in claims
    for name in ("importance", "random", "paper"):
        assert f">{name}</text>" in drawing


def test_points_are_drawn_after_each_stage_beside_the_paper(tmp_path: Path) -> None:
    order(tmp_path, 0.9, 0.3).compare()
    page = (tmp_path / "out" / "report.html").read_text()
    points, claims = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for name in ("before training", "SFT then RL, sft", "SFT then RL, grpo", "RL then SFT, grpo"):
        assert f">{name}</text>" in points
    assert points.count("paper dot") == 4
    assert "SFT then RL above RL then SFT: holds</text>" in claims
    assert '<path class="c line"' in claims


def test_a_point_of_one_stage_is_drawn_as_others_are_after_their_first(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.9, 0.3)
    swept.config["points"][1]["phases"] = ["sft"]
    swept.compare()
    page = (tmp_path / "out" / "report.html").read_text()
    points, _ = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert ">RL then SFT, sft</text>" in points
    assert points.count('class="a hollow"') == 2


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.6, 0.5)
    swept.compare("one")
    swept.inputs = dict(reversed(swept.inputs.items()))
    swept.compare("two")
    one, two = (files(tmp_path / name)["results.json"] for name in ("one", "two"))
    assert one == two


def test_other_problems_are_refused(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.6, 0.5)
    role = "predictions/RL then SFT/0/grpo"
    predictions(swept.inputs[role], drawn(0.5, 1)[1:], PROBLEMS[1:])
    with pytest.raises(DataError, match="of other test problems"):
        swept.compare()


def test_a_single_problem_is_refused(tmp_path: Path) -> None:
    swept = Swept(tmp_path, "order")
    role = "predictions/SFT then RL/0/grpo"
    swept.inputs[role] = predictions(tmp_path / role, [True], PROBLEMS[:1])
    with pytest.raises(DataError, match="1 test problem can't tell points apart"):
        swept.compare()


def test_an_accuracys_interval_ends_at_0_and_at_1(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.99, 0.02)
    for point in swept.compare()["points"]:
        for phase in point["phases"]:
            assert 0 <= phase["low"] <= phase["estimate"] <= phase["high"] <= 1


def test_no_right_answer_is_no_certainty(tmp_path: Path) -> None:
    swept = order(tmp_path, 1.0, 0.0)
    found = [point["phases"][-1] for point in swept.compare()["points"]]
    assert [(phase["low"], phase["high"]) for phase in found] == [
        (pytest.approx(0.94, abs=0.005), 1.0),
        (0.0, pytest.approx(0.06, abs=0.005)),
    ]


# The truth


def test_labels_and_teachers_are_held_against_the_truth(tmp_path: Path) -> None:
    """One teacher errs on two of ten, another on the same two: their errors go together fully."""
    ids = [f"{k:032x}" for k in range(10)]
    truth = [1 + k % 2 for k in range(10)]
    answers = ["1 + 1 = 2\n" * t + "#### 2" for t in truth]
    columns: dict[str, list[Any]] = {name: [""] * 10 for name in EXAMPLES.names}
    write_table(tmp_path / "examples", {**columns, "id": ids, "answer": answers}, EXAMPLES)
    wrong = [3 - t if k in (0, 3) else t for k, t in enumerate(truth)]
    swept = Swept(tmp_path, "labels").fill({"3 teachers": 0.5})
    swept.inputs["examples"] = tmp_path / "examples"
    swept.config["calibrations"] = {"a": "none", "b": "none"}
    one = [1] * 10
    for seed in swept.seeds:
        path = tmp_path / f"labels{seed}"
        given = {"example_id": ids, "system": wrong, "votes_for": one, "votes_against": [0] * 10}
        write_table(path, {**given, "abstained": [0] * 10, "agreement": [1.0] * 10}, LABELS)
        swept.inputs[f"labels/3 teachers/{seed}"] = path
    for teacher in ("a", "b"):
        folder = tmp_path / teacher
        folder.mkdir()
        ballots = [Ballot(i, w, "", "m") for i, w in zip(ids, wrong, strict=True)]
        write_votes(folder, ballots, [], teacher=teacher, asked="0")
        swept.inputs[f"votes/3 teachers/{teacher}/000000"] = folder / "votes.parquet"
    (strategy,) = swept.compare()["truth"]["strategies"]
    assert strategy["labels"] == {"examples": 10, "all": 0.2, "system1": 0.2, "system2": 0.2}
    assert strategy["error_correlation"] == 1.0
    assert strategy["teachers"]["a"] == strategy["labels"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Labels against the truth" in page
    assert "1.000" in page


@pytest.mark.parametrize(
    ("answer", "system"), [("1 + 1 = 2\n#### 2", 1), ("a\n\nb\n#### 2", 2), ("x #### y\n#### 2", 1)]
)
def test_steps_tell_the_system(answer: str, system: int) -> None:
    assert true_system(answer) == system


@pytest.mark.parametrize("answer", ["42", "#### 42", "", "\n \n#### 1"])
def test_an_answer_without_steps_tells_none(answer: str) -> None:
    with pytest.raises(DataError, match="no worked line before ####"):
        true_system(answer)


def test_error_rates_leave_abstentions_out() -> None:
    truth = {"a": 1, "b": 1, "c": 2, "d": 2}
    rates = error_rates({"a": 1, "b": 2, "c": None, "e": 1}, truth)
    assert rates == {"examples": 2, "all": 0.5, "system1": 0.5, "system2": None}
    mean = mean_rates([rates, error_rates({"a": 1, "c": 1}, truth)])
    assert mean == {"examples": 2, "all": 0.5, "system1": 0.25, "system2": 1.0}


# The paper


@pytest.mark.parametrize(
    ("sweep", "label", "values", "theta", "modules", "figures"),
    [
        ("theta", "", {"theta": 0.9, "elements": "importance"}, 0.5, "QKVGUD", (27.3,)),
        ("theta", "", {"theta": 0.6, "elements": "random"}, 0.5, "GUD", (17.13,)),
        ("theta", "", {"theta": 0.5, "elements": "random"}, 0.5, "GUD", ()),
        ("theta", "", {"theta": 0.9, "elements": "importance"}, 0.5, "QKVO", ()),
        ("theta", "", {"theta": 0.9, "elements": "importance"}, 0.5, ["q_proj"], ()),
        ("modules", "", {"modules": "QKV"}, 0.7, "QKVGUD", (23.73,)),
        ("modules", "", {"modules": "QKV"}, 0.75, "QKVGUD", ()),
        ("shared", "", {"alpha": 0.5, "beta": 1.0}, 0.9, "QKVGUD", (24.94, 31.01)),
        ("labels", "5 teachers", {}, 0.9, "QKVGUD", (27.6,)),
        ("baselines", "lora+rl", {}, 0.9, "QKVGUD", ()),
        ("baselines", "ia3", {}, 0.9, "QKVGUD", (22.97, 26.46)),
    ],
)
def test_the_papers_figures(
    sweep: str,
    label: str,
    values: dict[str, Any],
    theta: float,
    modules: Any,
    figures: tuple[float, ...],
) -> None:
    assert paper_figures(sweep, label, values, theta=theta, modules=modules) == figures


def test_no_interval_goes_beyond_what_accuracies_can_be(tmp_path: Path) -> None:
    """With two seeds that differ Student's tails are wider than that."""
    swept = order(tmp_path, 0.5, 0.5, seeds=(0, 1))
    for seed, (first, second) in enumerate([(1.0, 0.0), (0.4, 0.6)]):
        swept.answer("SFT then RL", seed, "grpo", drawn(first, 7 + seed))
        swept.answer("RL then SFT", seed, "grpo", drawn(second, 17 + seed))
    claim = swept.compare()["claims"][0]
    assert (claim["low"], claim["high"], claim["verdict"]) == (-1.0, 1.0, "open")


def test_one_seeds_verdict_is_called_so(tmp_path: Path) -> None:
    swept = order(tmp_path, 0.9, 0.3, seeds=(4,))
    assert swept.compare()["claims"][0]["verdict"] == "holds"
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| holds, of this seed alone | 1 seed, problems |" in page
    assert "test problems, seed 4. Claims of these points:" in page
    html = (tmp_path / "out" / "report.html").read_text()
    assert "claims hold / fail / are open, of this seed alone" in html
