"""The report: one page that needs nothing else, believes no third party, and is always the same."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

from tiny_inputs import files, run_stage
from tiny_report import HOSTILE, LOCAL, report, teacher

from lorapar_core.config import Recipe
from lorapar_core.report_block import Block
from lorapar_core.report_page import as_html, as_markdown


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
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


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
    words = Page(html).words.partition("Wilson")[2]
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
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "srcset", "data", "action", "style", "onload", "onclick"} & names
    targets = [value for name, value in page.attributes if name == "href"]
    assert all(target and target.startswith("#") for target in targets)
    for word in ("http://", "https://", "src=", "@import"):
        assert word not in html.lower()
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_the_policy_allows_the_pages_own_script_and_style_alone(tmp_path: Path) -> None:
    html, _ = pages(report(tmp_path / "run"))
    contents = [value for name, value in Page(html).attributes if name == "content"]
    policy = next(value for value in contents if value and "default-src" in value)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy


def test_every_link_of_the_contents_leads_somewhere(tmp_path: Path) -> None:
    page = Page(pages(report(tmp_path / "run"))[0])
    places = [value for name, value in page.attributes if name == "id"]
    targets = [value for name, value in page.attributes if name == "href"]
    assert len(places) == len(set(places))
    assert {target.removeprefix("#") for target in targets if target} <= set(places)
    assert "#what-it-took" in targets


def told_numbers(html: str) -> dict[str, str]:
    """Those that the slider changes."""
    return dict(re.findall(r'<output data-told="([^"]*)">([^<]*)</output>', html))


def test_at_the_runs_theta_the_profile_says_what_the_partition_did(tmp_path: Path) -> None:
    html, _ = pages(report(tmp_path / "run", partition={"theta": 0.7}))
    regions = json.loads((tmp_path / "run" / "partition" / "regions.json").read_text())
    total = regions["counts"]["elements"]
    assert '<output id="theta-told">0.7</output>' in html
    shown = told_numbers(html)
    assert shown["kept-1"] == f"{100 * regions['kept_share']['1']:.1f} %"
    assert shown["kept-2"] == f"{100 * regions['kept_share']['2']:.1f} %"
    assert shown["jaccard"] == f"{regions['jaccard']:.3f}"
    for region in ("s1_only", "s2_only", "shared", "rest"):
        assert shown[region] == f"{100 * regions['counts'][region] / total:.1f} %"


def test_a_theta_that_the_slider_lacks_starts_it_at_the_nearest(tmp_path: Path) -> None:
    for theta, expected in ((0.708, True), (0.7, False)):
        html, _ = pages(report(tmp_path / str(theta), partition={"theta": theta}))
        assert '<output id="theta-told">0.7</output>' in html
        assert ("The run's theta, 0.708, is not among them" in Page(html).words) is expected


def test_a_random_choice_is_told_beside_what_importance_would_keep(tmp_path: Path) -> None:
    for choice, expected in (("random", True), ("importance", False)):
        html, _ = pages(report(tmp_path / choice, partition={"choice": choice}))
        assert ("This run is a control and drew its elements at random" in html) is expected
        assert ("Beside the paper" in html) is not expected


def test_the_papers_shares_stand_beside_the_same_modules_and_theta(tmp_path: Path) -> None:
    html, markdown = pages(report(tmp_path / "run"))
    assert "| this run | 42.9 % | 33.3 % | 0.444 |" in markdown
    assert "| the paper, LLaMA-2-7B on GSM8K | 24.3 % | 23.5 % | 0.614 |" in markdown
    assert "the paper, System 1, QKVGUD: LLaMA-2-7B on GSM8K" in html
    for name, sections in (
        ("theta", {"partition": {"theta": 0.8}}),
        ("modules", {"lora": {"modules": "QKVO"}}),
    ):
        assert "| this run |" not in pages(report(tmp_path / name, **sections))[1]
    assert "the paper, System 1" not in pages(report(tmp_path / "odd", lora={"modules": "QKVO"}))[0]


def test_a_run_without_regions_or_labels_has_a_page(tmp_path: Path) -> None:
    """A baseline has no partition, and perhaps no votes."""
    full = report(tmp_path / "full").parent
    inputs = {"evaluation/base": full / "base.json", "training/sft": full / "metrics.jsonl"}
    recipe = Recipe.model_validate({"teachers": LOCAL}).model_dump(mode="json", exclude={"runtime"})
    config = {"recipe": recipe, "model": "m"}
    out = run_stage("report", config, inputs, tmp_path / "out", digests={})
    for text in pages(out):
        assert "25.0 % (7.2 to 59.1)" in text
        assert "At any theta" not in text
        assert "Agreement" not in text


def test_what_others_wrote_is_escaped(tmp_path: Path) -> None:
    html, markdown = pages(report(tmp_path / "run", text=HOSTILE))
    page, plain = Page(html), Page(pages(report(tmp_path / "plain"))[0])
    assert page.tags == plain.tags
    chosen = {"class", "fill-opacity"}  # how a table's column is laid out hangs on its texts
    shown, expected = (
        [pair for pair in which.attributes if pair[0] not in chosen] for which in (page, plain)
    )
    assert shown == expected
    assert HOSTILE in page.words
    assert html.count("<!--run-->") == html.count("<!--/run-->") == 1
    (kept,) = re.findall(r'<script type="application/json" id="profile">(.*?)</script>', html)
    assert "<" not in kept
    assert "\u2028" not in kept
    assert any(HOSTILE in place for place in json.loads(kept)["places"])
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


def test_an_empty_page() -> None:
    tags = Page(as_html("T", [Block("Only words", "so")])).tags
    assert tags[-4:] == ["section", "h2", "p", "script"]
    assert "nav" not in tags
