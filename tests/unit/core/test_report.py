"""The report: one page that needs nothing else, believes no third party, and is always the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import files, run_stage

from lorapar_core.config import Recipe
from lorapar_core.report import Block, as_html, as_markdown, curve

HOSTILE = "</td><script>alert('x')</script> | <img onerror=y> & \"q\" \\| `code`"


class Page(HTMLParser):
    """The tags, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def teacher(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "provider": "local", "calibration": "batch", **changed}


LOCAL = [teacher(name) for name in ("one", "two", "three")]


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def agreement_of(recipe: Recipe, text: str = "fine") -> dict[str, Any]:
    """What the tally tells of the recipe's teachers; `text` is whatever third parties wrote."""
    names = [teacher.name for teacher in recipe.panel]
    figures = {
        "votes": 10,
        "abstained": 3,
        "abstained_because": {"deadline": 2, "off_schema": 1},
        "system2_share": 0.5,
        "calibration": "batch",
        "offset_nats": -1.25,
    }
    silent = {**figures, "votes": 0, "abstained": 0, "abstained_because": {}, "system2_share": None}
    judge = {recipe.judge.name: silent} if recipe.judge else {}
    return {
        "counts": {"1": 6, "2": 4, "dropped": 2},
        "unanimous_share": 0.5,
        "curtailed": recipe.voting.curtailed,
        "votes": 25,
        "votes_if_full": 36,
        "teachers": {**dict.fromkeys(names, figures), **judge},
        "judge": recipe.judge.name if recipe.judge else None,
        "sample": 12,
        "raw_agreement": 0.75,
        "fleiss_kappa": {"kappa": 0.4321, "examples": 9},
        "krippendorff_alpha": {"alpha": 0.5678, "low": 0.3456, "high": 0.7891},
        "vote_correlation": 0.6543,
        "effective_teachers": 1.2345,
        "pairs": [
            {"teachers": ["one", "two"], "both": 11, "agreement": 0.9, "kappa": 0.8, "phi": None},
        ],
        "alike": [],
        "dawid_skene": {
            "examples": 12,
            "counts": {"1": 7, "2": 5},
            "differ": 3,
            "converged": True,
            "right_share": {},
        },
        "divided": [
            {
                "example_id": "0",
                "prompt": text,
                "answer": text,
                "votes": {
                    "one": {"vote": 1, "reply": text},
                    "two": {"vote": None, "reply": ""},
                },
            }
        ],
        "flagged": 7,
        "flagged_examples": [
            {"example_id": "0", "prompt": text, "answer": text, "signs": ["override", "label"]}
        ],
    }


def report(
    root: Path,
    *,
    teachers: list[dict[str, Any]] | None = None,
    text: str = "fine",
    told: dict[str, Any] | None = None,
    **sections: Any,
) -> Path:
    root.mkdir()
    fields = {"teachers": teachers or LOCAL, "description": text, **sections}
    recipe = Recipe.model_validate(fields)
    counts = {"s1_only": 30, "s2_only": 20, "shared": 40, "rest": 10, "elements": 100}
    accuracy = {"accuracy": 0.25, "correct": 2, "interval_95": [0.072, 0.591]}
    evaluation = {
        "n": 8,
        "strict": accuracy,
        "flexible": accuracy,
        "finished_share": 0.5,
        "mean_tokens": 31.4,
    }
    steps = [
        {"step": k, "loss": 2.0 - k / 10, "reward": 0.1 * k, "grad_norm": 1.0, "kl": 0.0}
        for k in (1, 2, 3)
    ]
    metrics = root / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
    agreement = {**agreement_of(recipe, text), **(told or {})}
    regions = {
        "counts": counts,
        "kept_share": {"1": 0.7, "2": 0.6},
        "jaccard": 0.444,
        "by_place": {"0.q_proj": counts, "1.q_proj": counts, "0.up_proj": counts},
    }
    inputs = {
        "summary": write(root / "summary.json", {"train": 12, "test": 8, "duplicates": 3}),
        "agreement": write(root / "agreement.json", agreement),
        "regions": write(root / "regions.json", regions),
        "evaluation/base": write(root / "base.json", evaluation),
        "evaluation/grpo": write(root / "grpo.json", {**evaluation, "n": 9}),
        "training/grpo": metrics,
    }
    config = {"recipe": recipe.model_dump(mode="json", exclude={"runtime"}), "model": text}
    digests = {role: f"{k:064x}" for k, role in enumerate([*inputs, text])}
    return run_stage("report", config, inputs, root / "out", digests=digests)


def pages(out: Path) -> tuple[str, str]:
    assert set(files(out)) == {"report.html", "report.md"}
    return (out / "report.html").read_text(), (out / "report.md").read_text()


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    for text in pages(report(tmp_path / "run")):
        for words in (
            "12 training examples (3 duplicates dropped): 6 System 1, 4 System 2, 2 without a",
            "All counted votes agree on 50.0 %",
            "6 votes ended at their deadline; voting.again: 1 asks for them again.",
            "25.0 % (7.2 to 59.1)",
            "before training",
            "after grpo",
            "System 1 keeps 70.0 % of 100 elements, System 2 60.0 %; Jaccard overlap 0.444",
            "3 optimizer steps",
            "-1.25",
            f"{0:064x}",
        ):
            assert words in text
    html, _ = pages(report(tmp_path / "again"))
    words = Page(html).words
    assert words.index("before training") < words.index("after grpo")
    assert "loss: 1.7 to 1.9 over 3 optimizer steps" in words


def test_how_far_the_labels_can_be_trusted_is_told(tmp_path: Path) -> None:
    """Every figure of agreement.json that the page owes its reader."""
    html, markdown = pages(report(tmp_path / "run"))
    for text in (Page(html).words, markdown):
        for words in (
            "Over 12 examples that every teacher was asked about.",
            "75.0 %",
            "0.57 (0.35 to 0.79)",
            "Fleiss' kappa (9 examples)",
            "7 System 1, 5 System 2; 3 labels would differ",
            "one: 1 (fine); two: none",
            "3 (2 deadline, 1 off_schema)",
        ):
            assert words in text
        assert "not converged" not in text
        assert "random tenth" not in text
        assert "curtailed" not in text.partition("Recipe")[0]
    assert "| effective number of teachers | 1.23 |" in markdown
    assert "| correlation of votes | 0.65 |" in markdown
    assert "| Fleiss' kappa (9 examples) | 0.43 |" in markdown
    assert "| one / two | 11 | 90.0 % | 0.80 | undefined |" in markdown


def test_curtailed_voting_says_what_it_saved_and_where_its_figures_come_from(
    tmp_path: Path,
) -> None:
    plain = [teacher(name, calibration="none") for name in ("one", "two", "three")]
    out = report(tmp_path / "run", teachers=plain, voting={"curtailed": True})
    for text in pages(out):
        assert "Voting was curtailed: 25 votes instead of 36, for the same labels." in text
        assert "Over 12 examples that every teacher was asked about, a random tenth:" in text
        assert "All counted votes agree on 50.0 % of a random tenth." in text


def test_votes_that_all_came_in_time_are_not_spoken_of(tmp_path: Path) -> None:
    figures = {
        "votes": 10,
        "abstained": 1,
        "abstained_because": {"off_schema": 1},
        "system2_share": 0.5,
        "calibration": "none",
        "offset_nats": 0.0,
    }
    told = {"teachers": dict.fromkeys(("one", "two", "three"), figures)}
    for text in pages(report(tmp_path / "run", told=told)):
        assert "deadline; voting.again" not in text


def test_what_is_undefined_is_called_so(tmp_path: Path) -> None:
    told = {
        "fleiss_kappa": {"kappa": None, "examples": 0},
        "krippendorff_alpha": {"alpha": None, "low": None, "high": None},
        "effective_teachers": None,
        "raw_agreement": None,
        "unanimous_share": None,
        "pairs": [],
        "divided": [],
        "dawid_skene": {"counts": {"1": 0, "2": 0}, "differ": 0, "converged": False},
    }
    _, markdown = pages(report(tmp_path / "run", told=told))
    assert "undefined (undefined to undefined)" in markdown
    assert "| effective number of teachers | undefined |" in markdown
    assert "0 labels would differ (not converged)" in markdown
    assert "The most divided examples" not in markdown


def test_suspicious_examples_are_told_with_their_signs(tmp_path: Path) -> None:
    """Also where one teacher votes and nobody can agree with it; and nothing where none are."""
    for name, teachers in (("one", LOCAL[:1]), ("three", LOCAL)):
        html, markdown = pages(report(tmp_path / name, teachers=teachers))
        for text in (Page(html).words, markdown):
            assert "Suspicious examples" in text
            assert "7 examples read as if they spoke to the teachers" in text
        assert "| fine | fine | override, label |" in markdown
    none = {"flagged": 0, "flagged_examples": []}
    for text in pages(report(tmp_path / "none", told=none)):
        assert "Suspicious" not in text


def test_teachers_that_vote_alike_are_named(tmp_path: Path) -> None:
    told = {"alike": [["one", "two"], ["two", "three"]]}
    for text in pages(report(tmp_path / "run", told=told)):
        assert "one and two; two and three vote alike far more than the other pairs" in text


def test_one_teacher_has_nobody_to_agree_with(tmp_path: Path) -> None:
    for name, how in (
        ("alone", {"teachers": LOCAL[:1]}),
        (
            "judged",
            {
                "teachers": [LOCAL[0], teacher("two", calibration="content_free")],
                "voting": {"tie": "escalate", "escalate_to": "two"},
            },
        ),
    ):
        _, markdown = pages(report(tmp_path / name, **how))
        assert "## Agreement" not in markdown
        assert "## Pairs of teachers" not in markdown
    assert "| two (of ties) | 0 | 0 | unknown |" in markdown


def test_labels_that_are_a_control_are_called_one(tmp_path: Path) -> None:
    for labels, expected in (("random", True), ("votes", False)):
        out = report(tmp_path / labels, voting={"labels": labels})
        for text in pages(out):
            assert ("The labels are a control" in text) is expected


def test_local_teachers_are_called_weak_and_not_independent(tmp_path: Path) -> None:
    for text in pages(report(tmp_path / "local")):
        assert "3 of the 3 teachers run locally on small or similar models" in text
        assert "their votes are weak evidence" in text
        assert "3 of them share one model and differ in wording only, so they are not indep" in text
    far = [teacher("far", provider="litellm", model="openai/x", calibration="none")]
    for text in pages(report(tmp_path / "far", teachers=far)):
        assert "weak evidence" not in text
    mixed = [*far, teacher("near", model="one/model")]
    for text in pages(report(tmp_path / "mixed", teachers=mixed)):
        assert "1 of the 2 teachers run locally" in text
        assert "its votes are weak evidence" in text
        assert "share one model" not in text
    two = [teacher("a"), teacher("b"), teacher("c", model="another/model")]
    for text in pages(report(tmp_path / "two", teachers=two)):
        assert "2 of them share one model" in text


def test_rewards_that_are_not_the_papers_are_told(tmp_path: Path) -> None:
    unused = {"correctness": 2.0, "free_form": 0.0}
    sft = [{"kind": "sft", "system": 1}]
    for name, sections in (
        ("paper", {}),
        ("unused", {"grpo": {"rewards": unused}}),
        ("no grpo", {"grpo": {"rewards": {"code": 1.0}}, "stages": sft}),
    ):
        for text in pages(report(tmp_path / name, **sections)):
            assert "lorapar's choice" not in Page(text).words
    rewards = {"free_form": 2.0, "code": 1.0, "brevity:brief": 0.5, "integer": 0.25}
    html, markdown = pages(report(tmp_path / "ours", grpo={"rewards": rewards}))
    for text in (Page(html).words, markdown):
        assert "free_form and code: lorapar's choice, for the paper doesn't say." in text
        assert "brevity:brief: this recipe's own function." in text
        assert "compares whole answers with the reference" in text
    assert "| brevity:brief | 0.5 |" in markdown


def test_accuracy_that_is_not_measured_is_told(tmp_path: Path) -> None:
    told = "carries tests is not run here and counts as wrong"
    for name, columns, expected in (("with", {"tests": "t"}, True), ("without", {}, False)):
        for text in pages(report(tmp_path / name, data={"columns": columns})):
            assert (told in text) is expected


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html, _ = pages(report(tmp_path / "run"))
    page = Page(html)
    assert not page.open
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href", "srcset", "data", "action"} & names
    for word in ("http://", "https://", "src=", "url(", "@import"):
        assert word not in html.lower()


def test_what_others_wrote_is_escaped(tmp_path: Path) -> None:
    html, markdown = pages(report(tmp_path / "run", text=HOSTILE))
    page, plain = Page(html), Page(pages(report(tmp_path / "plain"))[0])
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert HOSTILE in page.words
    # Markdown lets HTML through, so there too no tag may stand.
    assert not re.search(r"<\s*[/!a-z]", markdown, re.IGNORECASE)
    widths = {}
    for table in re.findall(r"(?:^\|.*\n?)+", markdown, re.MULTILINE):
        rows = [len(re.findall(r"(?<!\\)\|", row)) for row in table.strip().splitlines()]
        widths[table[:20]] = set(rows)
    assert all(len(width) == 1 for width in widths.values()), widths


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    assert files(report(tmp_path / "one")) == files(report(tmp_path / "two"))
    for content in files(tmp_path / "one" / "out").values():
        assert str(tmp_path).encode() not in content


def test_markdown_cells_stay_in_their_row() -> None:
    text = as_markdown("T", [Block("B", "w", ["a", "b"], [["x | y", "line\nbreak"]])])
    (row,) = [line for line in text.splitlines() if line.startswith("| x")]
    assert row == "| x &#124; y | line break |"


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [-1e9, 1e9]])
def test_a_curve_stays_in_its_frame(values: list[float]) -> None:
    drawn = curve("loss", values, "step")
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 300
        assert 0 <= y <= 100
    assert f"over {len(values)} steps" in drawn


def test_an_empty_page() -> None:
    assert Page(as_html("T", [Block("Only words", "so")])).tags[-3:] == ["section", "h2", "p"]
