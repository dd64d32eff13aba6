"""The lab's page tells the verdict of every claim of every sweep, and the tables behind it."""

from __future__ import annotations

from typing import Any

from deployments.lab.results import results_page
from lorapar_core.report_page import as_html, as_markdown


def claim(text: str, verdict: str, estimate: float = 0.0, **more: Any) -> dict[str, Any]:
    measured = {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1}
    if verdict == "unmeasured":
        measured = {}
    return {
        "text": text,
        "verdict": verdict,
        "seeds": [0, 1, 2],
        "paper": None,
        "p": 0.01,
        "level": 0.95,
        **measured,
        **more,
    }


def summary(sweep: str, *claims: dict[str, Any]) -> dict[str, Any]:
    phase = {"after": "sft", "seeds": [0, 1, 2], "by_seed": [0.5, 0.6, 0.7], "flexible": 0.6}
    interval = {"estimate": 0.6, "low": 0.5, "high": 0.7, "level": 0.95}
    point = {"label": "QKV", "values": {"modules": "QKV"}, "phases": [{**phase, **interval}]}
    results = {
        "sweep": sweep,
        "recipe": "lab",
        "description": "sums",
        "model": "lab",
        "seeds": [0, 1, 2],
        "problems": 300,
        "base": {"accuracy": 0.01, "low": 0.0, "high": 0.02},
        "paper": None,
        "paper_base": None,
        "points": [{**point, "kept_share": None, "active_share": None, "paper": []}],
        "claims": list(claims),
        "truth": None,
    }
    artifacts = {f"sweep[{sweep}]/results.json": "ab" * 32}
    return {"results": results, "artifacts": artifacts, "command": f"lorapar sweep {sweep} lab"}


FOUND = {
    "modules": summary(
        "modules",
        claim("QKVGUD above QKV", "holds", 0.2, paper=0.0395),
        claim("QKVGUD above GUD", "unmeasured"),
    ),
    "order": summary("order", claim("SFT then RL above RL then SFT", "fails", -0.3)),
}


def test_every_claim_has_its_verdict_first() -> None:
    verdicts, *_ = results_page(FOUND)
    assert "3 claims: 1 holds, 1 fails, 1 unmeasured." in verdicts.words
    assert "the paper has a figure of 1, with the same sign for 1." in verdicts.words
    assert [row[:2] for row in verdicts.rows] == [
        ["modules", "QKVGUD above QKV"],
        ["modules", "QKVGUD above GUD"],
        ["order", "SFT then RL above RL then SFT"],
    ]
    assert verdicts.rows[0][2:] == ["+20.00 (+10.00 to +30.00)", "holds", "+3.95"]
    assert verdicts.rows[1][2] == ""
    assert verdicts.rows[2][2:] == ["-30.00 (-40.00 to -20.00)", "fails", ""]


def test_each_sweep_has_its_tables_and_its_digest() -> None:
    page = results_page(FOUND)
    assert [block.title for block in page if not block.under] == [
        "Verdicts",
        "modules: QKV, GUD, QKVGUD; SFT",
        "order: SFT then RL, RL then SFT",
        "Artifacts",
    ]
    assert [row[0] for row in page[-1].rows] == [
        "sweep[modules]/results.json",
        "sweep[order]/results.json",
    ]
    assert page[1].words.endswith("Made by `lorapar sweep modules lab`.")
    markdown, html = as_markdown("Lab", page), as_html("Lab", page)
    for text in ("QKVGUD above QKV", "60.0 (50.0 to 70.0)"):
        assert text in markdown
        assert text in html
