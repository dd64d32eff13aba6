"""Stage prepare: which examples are chosen, and what is written about them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorapar_core import prepare
from lorapar_core.config import DataConfig, GrpoConfig, SftConfig
from lorapar_core.data import choice
from lorapar_core.data.choice import Entry, choose, entry_of
from lorapar_core.data.shapes import Example
from lorapar_core.data.sources import Source
from lorapar_core.errors import DataError, ModelError
from lorapar_core.parquet import read_table
from lorapar_core.row_tests import as_reference
from lorapar_core.spec import Spec

FILES = {"examples.parquet", "ids.json", "tokens.parquet", "test.parquet", "test_tokens.parquet"}


def entries(n: int, *, word: str = "q") -> list[Entry]:
    return [entry_of(Example(f"{word}{i}?", f"a\n#### {i}", str(i)), "set") for i in range(n)]


def ids(chosen: Sequence[Entry]) -> list[str]:
    return [entry.id for entry in chosen]


def test_an_id_is_the_digest_of_prompt_and_answer() -> None:
    digest = hashlib.sha256('["é?","#### 1"]'.encode()).hexdigest()
    assert entry_of(Example("é?", "#### 1", "1"), "set").id == digest[:32]


def test_rows_that_differ_in_their_tests_are_two_examples() -> None:
    """Or the last one in the file would stay."""
    one, two = (entry_of(Example("p", "a", as_reference(t)), "set") for t in ("f(1)", "f(2)"))
    assert len({one.id, two.id, entry_of(Example("p", "a", "a"), "set").id}) == 3
    assert entry_of(Example("p", "a", "a"), "set").id == entry_of(Example("p", "a", ""), "set").id


def test_order_in_the_file_decides_nothing() -> None:
    train, test = entries(50), entries(20, word="t")
    data = DataConfig(examples=10, test_examples=5)
    chosen = choose(train, test, data=data)
    random.Random(0).shuffle(train)
    random.Random(1).shuffle(test)
    assert choose(train, test, data=data) == chosen
    assert (len(chosen.train), len(chosen.test)) == (10, 5)
    assert choose(train, test, data=DataConfig(examples=10, seed=1)).train != chosen.train


def test_more_examples_keep_those_there_were() -> None:
    train, test = entries(50), entries(20, word="t")
    few = choose(train, test, data=DataConfig(examples=10, test_examples=5))
    more = choose(train, test, data=DataConfig(examples=30, test_examples=15))
    assert ids(more.train)[:10] == ids(few.train)
    assert ids(more.test)[:5] == ids(few.test)


def test_repeats_are_counted_once_and_test_prompts_are_no_training() -> None:
    train, test = entries(10), entries(4)
    other = entry_of(Example("q0?", "another way\n#### 0", "0"), "set")
    chosen = choose([*train, train[5], other], [*test, test[0]], data=DataConfig())
    assert chosen.duplicates == 2
    assert chosen.test_overlap == 5
    assert not {e.example.prompt for e in chosen.train} & {e.example.prompt for e in chosen.test}
    assert len(chosen.train) == 6
    # Not even those of the test set that aren't drawn.
    assert ids(choose(train, test, data=DataConfig(test_examples=1)).train) == ids(chosen.train)


def test_a_test_set_is_held_back_where_there_is_none() -> None:
    train = entries(50)
    chosen = choose(train, None, data=DataConfig(test_examples=10))
    assert (len(chosen.train), len(chosen.test)) == (40, 10)
    assert not set(ids(chosen.train)) & set(ids(chosen.test))
    # The first examples stay the same, with or without more test problems.
    fewer = choose(train, None, data=DataConfig(test_examples=5, examples=20))
    assert ids(fewer.train) == ids(chosen.train)[:20]
    assert ids(fewer.test) == ids(chosen.test)[:5]


@pytest.mark.parametrize("count", [0, 50, 60])
def test_holding_back_none_or_all_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=r"data has no test set of its own and 50 examples; set"):
        choose(entries(50), None, data=DataConfig(test_examples=count))


def test_training_on_the_test_set_is_refused() -> None:
    with pytest.raises(DataError, match="prompts of all 9 are also test prompts"):
        choose(entries(9), entries(10), data=DataConfig())


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    def question(i: int) -> str:
        return " ".join(["word"] * i) + f" what is {i}?"

    written = {}
    for name, numbers in (("train", range(40)), ("test", range(40, 60))):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"question": question(i), "answer": f"It is {i}.\n#### {i}"} for i in numbers]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        written[name] = path
    return written


def spec_for(
    tokenizer: Path, scratch: Path, inputs: dict[str, Path], **changed: dict[str, Any]
) -> Spec:
    sft = SftConfig(**{"max_length": 512, **changed.get("sft", {})})
    grpo = GrpoConfig(**{"prompt": "tags", **changed.get("grpo", {})})
    sources = {
        role: Source("file", path.name).to_json() if path else None for role, path in inputs.items()
    }
    return Spec(
        stage="prepare",
        name="prepare",
        config={
            "data": DataConfig(**changed.get("data", {})).model_dump(),
            "train": None,
            "test": None,
            **sources,
            **changed.get("sources", {}),
            "model": {"chat_template": ""},
            "sft": sft.model_dump(include={"prompt", "max_length"}),
            "grpo": grpo.model_dump(include={"prompt", "system_prompt", "max_prompt_length"}),
        },
        inputs={"tokenizer": tokenizer, **inputs},
        scratch=scratch,
    )


def run(spec: Spec, out: Path) -> dict[str, int]:
    out.mkdir()
    prepare.run(spec, out)
    assert {path.name for path in out.iterdir()} == {*FILES, "summary.json"}
    summary: dict[str, int] = json.loads((out / "summary.json").read_text())
    return summary


def test_what_is_written(tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    summary = run(spec_for(tiny_tokenizer, tmp_path, files), tmp_path / "out")
    assert summary["train"] == 40
    assert summary["test"] == 20
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    names = {"train": ("examples", "tokens", 40), "test": ("test", "test_tokens", 20)}
    for split, (rows, token_rows, count) in names.items():
        examples = read_table(tmp_path / "out" / f"{rows}.parquet")
        assert list(examples) == ["id", "prompt", "answer", "reference", "source", "split"]
        assert set(examples["split"]) == {split}
        if split == "train":
            assert json.loads((tmp_path / "out" / "ids.json").read_text()) == examples["id"]
        assert set(examples["source"]) == {f"{split}.jsonl"}
        for answer, reference in zip(examples["answer"], examples["reference"], strict=True):
            assert answer.endswith(f"#### {reference}")
        tokens = read_table(tmp_path / "out" / f"{token_rows}.parquet")
        assert tokens["format"].count("sft") == count
        prompts = dict(zip(examples["id"], examples["prompt"], strict=True))
        answers = dict(zip(examples["id"], examples["answer"], strict=True))
        for i, form, prompt, answer in zip(*tokens.values(), strict=True):
            if form == "sft":
                assert tokenizer.decode(prompt) == f"{prompts[i]}</s>"
                assert tokenizer.decode(answer) == f"{answers[i]}</s>"
            else:
                assert f"<|user|>\n{prompts[i]}</s>" in tokenizer.decode(prompt)
                assert answer == []


def test_the_same_rows_give_the_same_bytes(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    run(spec_for(tiny_tokenizer, tmp_path, files), tmp_path / "one")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shuffled = {}
    for role, path in files.items():
        lines = path.read_text().splitlines(keepends=True)
        shuffled[role] = moved / path.name
        shuffled[role].write_text("".join(reversed(lines)))
    run(spec_for(tiny_tokenizer, tmp_path, shuffled), tmp_path / "two")
    for name in (*FILES, "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_file_that_changed_since_the_run_began_is_refused(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    """Its key names the former content: the new one must not be stored under it."""
    digests = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in files.items()}
    spec = replace(spec_for(tiny_tokenizer, tmp_path, files), digests=digests)
    run(spec, tmp_path / "out")
    with files["test"].open("a") as file:
        file.write(json.dumps({"question": "one more", "answer": "#### 1"}) + "\n")
    (tmp_path / "again").mkdir()
    with pytest.raises(DataError, match=r"test\.jsonl was changed while the run read it"):
        prepare.run(spec, tmp_path / "again")
    assert list((tmp_path / "again").iterdir()) == []


def test_another_test_set_leaves_training_alone(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    run(spec_for(tiny_tokenizer, tmp_path, files), tmp_path / "one")
    fewer = spec_for(tiny_tokenizer, tmp_path, files, data={"test_examples": 3})
    assert run(fewer, tmp_path / "two")["test"] == 3
    for name in ("examples.parquet", "tokens.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_limits_are_for_training(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    limits = {"sft": {"max_length": 60}, "grpo": {"max_prompt_length": 24}}
    summary = run(spec_for(tiny_tokenizer, tmp_path, files, **limits), tmp_path / "out")
    examples = read_table(tmp_path / "out" / "examples.parquet")
    tokens = read_table(tmp_path / "out" / "tokens.parquet")
    rows = list(zip(*tokens.values(), strict=True))
    sft = {i: (prompt, answer) for i, form, prompt, answer in rows if form == "sft"}
    trained = {i for i, form, _, _ in rows if form == "grpo"}
    assert set(sft) == set(examples["id"])
    assert summary["train"] == len(sft) == 40 - summary["too_long_for_sft"]
    assert summary["too_long_for_sft"] > 0
    assert all(len(prompt) + len(answer) <= 60 and answer for prompt, answer in sft.values())
    cut = [answer for _, answer in sft.values() if answer[-1] != 2]
    assert len(cut) == summary["cut"] > 0
    assert len(trained) == len(sft) - summary["too_long_for_grpo"]
    assert 0 < len(trained) < len(sft)
    # Every test problem is asked, whole, however long.
    tested = read_table(tmp_path / "out" / "test_tokens.parquet")
    assert tested["format"].count("sft") == tested["format"].count("grpo") == 20
    assert max(map(len, tested["prompt_ids"])) > 60


def test_no_training_prompt_fits(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    spec = spec_for(tiny_tokenizer, tmp_path, files, sft={"max_length": 8})
    with pytest.raises(DataError, match=r"raise sft\.max_length above 8"):
        run(spec, tmp_path / "out")


def test_arithmetic(tiny_tokenizer: Path, tmp_path: Path) -> None:
    sources = {
        split: Source("arithmetic", "arithmetic", split=split).to_json()
        for split in ("train", "test")
    }
    spec = spec_for(
        tiny_tokenizer,
        tmp_path,
        {},
        sources=sources,
        data={"source": "arithmetic", "examples": 60, "test_examples": 20},
    )
    summary = run(spec, tmp_path / "out")
    assert (summary["train"], summary["test"]) == (60, 20)
    assert summary["duplicates"] == summary["test_overlap"] == 0


def test_empty_rows(
    tiny_tokenizer: Path,
    tmp_path: Path,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(1, {"question": "Q?", "answer": "A"}), (2, {"question": "R?", "answer": ""})]
    monkeypatch.setattr(choice, "hub_rows", lambda source: iter(rows))
    sources = {"train": Source("hub", "owner/name", split="train").to_json()}
    hub = spec_for(tiny_tokenizer, tmp_path, {"test": files["test"]}, sources=sources)
    summary = run(hub, tmp_path / "out")
    assert (summary["train"], summary["empty"]) == (1, 1)
    # The owner of a file can mend it.
    with files["train"].open("a") as file:
        file.write(json.dumps(rows[1][1]) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl line 41: the answer is empty") as error:
        run(spec_for(tiny_tokenizer, tmp_path, files), tmp_path / "two")
    assert type(error.value) is DataError


def test_no_examples_and_no_tokenizer(
    tiny_tokenizer: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        run(spec_for(tmp_path / "nothing", tmp_path, files), tmp_path / "one")
    files["train"].write_text("")
    with pytest.raises(DataError, match=r"train\.jsonl holds no examples"):
        run(spec_for(tiny_tokenizer, tmp_path, files), tmp_path / "two")
