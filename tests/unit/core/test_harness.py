"""EleutherAI's harness on the same model and rows: the same choices, the same answers read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import harness_oracle as oracle
from tiny_benchmarks import SUBJECTS, gsm8k_rows, mmlu_rows, set_config, write_rows

from lorapar_core.config import EvaluationConfig
from lorapar_core.data.benchmark_sets import Shown, gather
from lorapar_core.evaluate import Asked, generate
from lorapar_core.harness import flexible_extract, is_exact_match, strict_match
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.measure import as_harness, choose, prompt_ids
from lorapar_core.stopping_text import before_stop

installed = pytest.mark.skipif(
    not oracle.available(), reason="lm-evaluation-harness isn't installed (the extra `harness`)"
)
quiet = pytest.mark.filterwarnings("ignore")  # the harness's own, and those of what it imports
TEXTS = [
    "",
    "#### 5",
    "####5",
    "#### -5.",
    "#### 1,234.50 and #### 7",
    "#### $5",
    "#### ,",
    "so 18",
    "She pays $18.",
    "1.2.3 then 4,",
    "-7 or 7-3",
    "$ . ,",
    "#### \n 5",
    "1e5, ٣ and ½",
    "#### 5%",
    "no number",
]
REFERENCES = ["5", "-5", "1234.5", "18", "7", "1,234", "$18", "", "5."]


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("#### 1,234.50 and #### 7", "1,234.50", "7"),
        ("#### -5.", "-5.", "-5."),
        ("####5", "[invalid]", "5"),
        ("She pays $18.", "[invalid]", "$18."),
        ("#### $5", "[invalid]", "$5"),
        ("", "[invalid]", "[invalid]"),
    ],
)
def test_what_it_extracts(text: str, strict: str, flexible: str) -> None:
    assert strict_match(text) == strict
    assert flexible_extract(text) == flexible


@pytest.mark.parametrize(
    ("found", "reference", "same"),
    [
        ("$1,234.", "1234", True),
        ("5.0", "5", False),
        ("[invalid]", "5", False),
        ("5", "She has 5.\n#### 5", True),
    ],
)
def test_what_it_takes_for_the_same(found: str, reference: str, same: bool) -> None:
    assert is_exact_match(found, reference) is same


@given(st.text(alphabet="#0123456789.,$- \nabA%", max_size=40))
def test_a_strict_match_stands_in_the_text(text: str) -> None:
    found = strict_match(text)
    if found == "[invalid]":
        assert re.search(r"#### -?[0-9.,]", text) is None
    else:
        assert f"#### {found}" in text


# Against the harness itself


@installed
@quiet
def test_its_own_filters_extract_the_same() -> None:
    from lm_eval.filters.extraction import RegexFilter

    texts = [a + b for a in TEXTS for b in ("", *TEXTS)]
    ours = {"strict-match": strict_match, "flexible-extract": flexible_extract}
    for task in oracle.GSM8K["filter_list"]:
        words = {k: v for k, v in task["filter"][0].items() if k != "function"}
        theirs = [found[0] for found in RegexFilter(**words).apply([[t] for t in texts], [])]
        assert [ours[task["name"]](text) for text in texts] == theirs


@installed
@quiet
def test_its_own_metric_takes_the_same_for_right() -> None:
    from lm_eval.api.metrics import exact_match_hf_evaluate

    words = oracle.GSM8K["metric_list"][0]
    how = {k: words[k] for k in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    for text in TEXTS:
        for found in (strict_match(text), flexible_extract(text)):
            for reference in REFERENCES:
                theirs = exact_match_hf_evaluate([found], [reference], **how)["exact_match"]
                assert is_exact_match(found, reference) is bool(theirs), (found, reference)


def asked(model: Path) -> Asked:
    return Asked(load_base(model, dtype="float32"), load_tokenizer(model), [2], "cpu")


def numerate(model: Path) -> Asked:
    """One that writes digits, dollars and hashes, and others after other prompts: its head hears
    those tokens, and its layers everything, ten times as loud."""
    them = asked(model)
    written = [{*"0123456789"}, {*"$,."}, {*"# "}]
    loud = [k for k in range(6, 448) if any({*them.tokenizer.decode([k])} <= w for w in written)]
    layers = [p for p in them.model.model.layers.parameters() if p.dim() == 2]
    with torch.no_grad():
        them.model.lm_head.weight[loud] *= 10
        for weight in layers:
            weight *= 10
    return them


def read(folder: Path, task: str, rows: Any, shown: Any, shots: int) -> Shown:
    files = {"set": write_rows(folder / "set.jsonl", rows)}
    if shots:
        files["shots_set"] = write_rows(folder / "shots.jsonl", shown)
    return gather(set_config(task, shots=shots), files)


@installed
@quiet
@pytest.mark.parametrize("shots", [0, 5])
def test_it_makes_the_same_choices(tiny_model: Path, tmp_path: Path, shots: int) -> None:
    """Of 204 problems, but for exact ties."""
    rows, shown = mmlu_rows(102), mmlu_rows(5, start=500)
    ours = choose(read(tmp_path, "mmlu", rows, shown, shots), asked(tiny_model), EvaluationConfig())
    them = asked(tiny_model)
    compared = 0
    for subject in SUBJECTS:
        theirs = oracle.samples(
            them.model,
            them.tokenizer,
            oracle.MMLU,
            [row for row in rows if row["subject"] == subject],
            tmp_path / subject,
            description=f"The following are multiple choice questions (with answers) about "
            f"{subject}.\n\n",
            shots=[row for row in shown if row["subject"] == subject][:shots],
        )
        places = [k for k, group in enumerate(ours["group"]) if group == subject]
        for k, log in zip(places, sorted(theirs, key=lambda log: log["doc_id"]), strict=True):
            logprobs = [float(answer[0][0]) for answer in log["resps"]]
            assert ours["logprobs"][k] == pytest.approx(logprobs, abs=2e-5)
            best = max(logprobs)
            if sum(abs(logprob - best) < 2e-5 for logprob in logprobs) == 1:
                assert ours["choice"][k] == "ABCD"[logprobs.index(best)]
                compared += 1
    assert compared > 200


@installed
@quiet
def test_it_reads_the_same_answers(tiny_model: Path, tmp_path: Path) -> None:
    """Both generate, greedily."""
    rows, shown = gsm8k_rows(24), gsm8k_rows(2, start=500)
    benchmark = read(tmp_path, "gsm8k", rows, shown, 2)
    us = numerate(tiny_model)
    prompts = [
        prompt_ids(us.tokenizer, problem, benchmark, {"prompt": "plain"}, form="sft")
        for problem in benchmark.problems.values()
    ]
    tokens = generate(
        us.model,
        us.tokenizer,
        prompts,
        EvaluationConfig(max_new_tokens=12),
        ends=us.ends,
        device="cpu",
        stops=benchmark.stops,
    )
    texts = [us.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    completions = [before_stop(text, benchmark.stops)[0] for text in texts]
    references = [problem.reference for problem in benchmark.problems.values()]
    ours = as_harness({"completion": completions, "reference": references})
    assert len({*ours["harness_flexible"]}) > 5
    order = [question for question, _ in benchmark.shots[""]]
    them = numerate(tiny_model)
    theirs = oracle.samples(
        them.model,
        them.tokenizer,
        oracle.GSM8K,
        rows,
        tmp_path / "gsm8k",
        shots=sorted(shown, key=lambda row: order.index(row["question"])),
        max_gen_toks=12,
    )
    for name, filtered in (("strict", "strict-match"), ("flexible", "flexible-extract")):
        logs = sorted(
            (log for log in theirs if log["filter"] == filtered), key=lambda log: log["doc_id"]
        )
        assert [log["resps"][0][0] for log in logs] == completions
        assert [log["filtered_resps"][0] for log in logs] == ours[f"harness_{name}"]
        right = [bool(log["exact_match"]) for log in logs]
        assert right == ours[f"harness_{name}_correct"]
