"""Stages in processes of their own: the protocol, the ways to die, and a process's second stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from tiny_inputs import MODEL, files, run_stage, spec, steady_files, tiny_inputs

from lorapar_core.config import RuntimeConfig, SftConfig, TeacherConfig
from lorapar_core.errors import StageFailed, Stopped, TooFewExamples, VoteError
from tasks.children import Children

ROOT = Path(__file__).parents[3]
RUNTIME = {"device": "cpu", "threads": 1}
SLEEPER = textwrap.dedent(
    """
    import json, logging, os, signal, sys, time
    from lorapar_core import events
    from lorapar_core.errors import VoteError

    def run(spec, out):
        how = spec.config["how"]
        print("chatter on stdout")
        os.system("echo chatter of a program")
        logging.getLogger("third.party").info("loaded %d things", 3)
        logging.getLogger("third.party").debug("not this")
        logging.getLogger("third.party").info("%d broken", "no number")
        events.progress(step=1, total=2, loss=0.5)
        (out / "written").write_text(str(os.getpid()))
        if how == "tell":
            (out / "environment").write_text(json.dumps(dict(os.environ)))
        if how == "leak":
            print("stderr has 004521", file=sys.stderr, flush=True)
            logging.getLogger("progress").info("progress report of 004521: %s", "message")
            events.progress(step=4521, total=9, loss=0.004521, message="x004521y")
            raise VoteError("no progress report for 004521 or level 20")
        if how == "refuse":
            raise VoteError("the teacher refuses")
        if how == "crash":
            raise KeyError("a bug")
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "exit":
            print("cannot go on", file=sys.stderr, flush=True)
            os._exit(3)
        if how == "noisy":
            os.write(2, b"\\xff\\xfe is not UTF-8\\n")
            for line in range(5000):
                os.write(2, b"more than a pipe holds, were it not read\\n")
        if how == "slow":
            time.sleep(0.5)
        if how == "sleep":
            time.sleep(60)
        if how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (out / "deaf").write_text(str(os.getpid()))
            time.sleep(60)
    """
)


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `sitecustomize` gives child processes a stage `sleeper`."""
    folder = tmp_path / "stages"
    folder.mkdir()
    (folder / "sleeper_stage.py").write_text(SLEEPER)
    (folder / "sitecustomize.py").write_text(
        "from lorapar_core.stages import STAGES, Stage\n"
        "STAGES['sleeper'] = Stage(1, 'sleeper_stage')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    return folder


def sleeper(tmp_path: Path, how: str) -> Any:
    return spec("sleeper", {"how": how}, {}, tmp_path, name=f"sleeper[{how}]")


def empty(path: Path) -> Path:
    path.mkdir()
    return path


class Serving:
    """`python -m lorapar_core --serve PID`, spoken to by hand."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lorapar_core", "--serve", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, given: Any, out: Path) -> list[dict[str, Any]]:
        assert self.process.stdin
        assert self.process.stdout
        request = {"spec": json.loads(given.to_json()), "out": str(out)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        events: list[dict[str, Any]] = []
        for line in self.process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] in ("done", "error"):
                break
        return events

    def end(self) -> str:
        assert self.process.stdin
        assert self.process.stderr
        self.process.stdin.close()
        said = self.process.stderr.read()
        assert self.process.wait(10) == 0
        assert self.process.stdout
        assert self.process.stdout.read() == ""
        self.process.stdout.close()
        self.process.stderr.close()
        return said


def test_the_protocol(stages: Path, tmp_path: Path) -> None:
    serving = Serving()
    done = serving.ask(sleeper(tmp_path, "work"), empty(tmp_path / "a"))
    assert done[-1] == {"event": "done"}
    assert {"event": "progress", "step": 1, "total": 2, "loss": 0.5} in done
    logs = [event for event in done if event["event"] == "log"]
    assert logs[0] == {
        "event": "log",
        "logger": "third.party",
        "level": 20,
        "message": "loaded 3 things",
    }
    assert not [event for event in logs if event["message"] == "not this"]
    refused = serving.ask(sleeper(tmp_path, "refuse"), empty(tmp_path / "b"))
    assert refused[-1] == {"event": "error", "kind": "VoteError", "message": "the teacher refuses"}
    crashed = serving.ask(sleeper(tmp_path, "crash"), empty(tmp_path / "c"))
    assert crashed[-1]["kind"] == "KeyError"
    assert "sleeper_stage.py" in crashed[-1]["traceback"]
    unknown = serving.ask(spec("nonsense", {}, {}, tmp_path), empty(tmp_path / "d"))
    assert unknown[-1]["kind"] == "ConfigError"
    again = serving.ask(sleeper(tmp_path, "work"), empty(tmp_path / "e"))
    assert again[-1] == {"event": "done"}  # none of that ended it
    assert {(tmp_path / name / "written").read_text() for name in "abce"} == {
        str(serving.process.pid)
    }
    said = serving.end()
    assert said.count("chatter on stdout") == 4
    assert said.count("chatter of a program") == 4


@pytest.fixture
def children() -> Iterator[Children]:
    runtime = RuntimeConfig.model_validate({**RUNTIME, "child": "resident"})
    with Children(runtime) as running:
        yield running


def heard() -> tuple[list[Mapping[str, Any]], Any]:
    events: list[Mapping[str, Any]] = []
    return events, events.append


def test_children_pass_on_what_a_stage_says(
    stages: Path, tmp_path: Path, children: Children
) -> None:
    events, listen = heard()
    seconds = children.run(
        sleeper(tmp_path, "work"), empty(tmp_path / "a"), place="device", listen=listen
    )
    assert 0 < seconds < 30
    assert {"event": "progress", "step": 1, "total": 2, "loss": 0.5} in events
    assert any(e.get("message") == "loaded 3 things" for e in events)
    with pytest.raises(VoteError, match="the teacher refuses"):
        children.run(
            sleeper(tmp_path, "refuse"), empty(tmp_path / "b"), place="device", listen=listen
        )
    with pytest.raises(StageFailed, match="KeyError: 'a bug'"):
        children.run(
            sleeper(tmp_path, "crash"), empty(tmp_path / "c"), place="device", listen=listen
        )
    assert any("sleeper_stage.py" in str(e.get("message")) for e in events)
    # The resident child lives through refusals; a vote over the network gets its own process.
    children.run(sleeper(tmp_path, "work"), empty(tmp_path / "d"), place="network", listen=listen)
    a, b, d = ((tmp_path / name / "written").read_text() for name in "abd")
    assert a == b != d


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", r"the process of sleeper\[kill\] was killed by signal 9 \(out of memory\?\)"),
        ("exit", r"the process of sleeper\[exit\] exited with 3; it last said: .*cannot go on"),
    ],
)
def test_a_process_that_dies_is_named_and_replaced(
    stages: Path, tmp_path: Path, children: Children, how: str, message: str
) -> None:
    _, listen = heard()
    with pytest.raises(StageFailed, match=message):
        children.run(sleeper(tmp_path, how), empty(tmp_path / "a"), place="device", listen=listen)
    children.run(sleeper(tmp_path, "work"), empty(tmp_path / "b"), place="device", listen=listen)
    a, b = ((tmp_path / name / "written").read_text() for name in "ab")
    assert a != b


def test_odd_bytes_and_much_chatter_stop_nothing(
    stages: Path, tmp_path: Path, children: Children
) -> None:
    events, listen = heard()
    children.run(sleeper(tmp_path, "noisy"), empty(tmp_path / "a"), place="device", listen=listen)
    said = [event.get("message") for event in events]
    assert any("is not UTF-8" in str(message) for message in said)


def test_a_listener_that_fails_leaves_no_stage_behind(
    stages: Path, tmp_path: Path, children: Children
) -> None:
    """Its process is at work still: another stage there would be told the first one's end."""
    for kind in ("progress", "log"):

        def listen(event: Mapping[str, Any], kind: str = kind) -> None:
            if event["event"] == kind:
                raise RuntimeError("no listening")

        first, second = empty(tmp_path / f"{kind}1"), empty(tmp_path / f"{kind}2")
        with pytest.raises(RuntimeError, match="no listening"):
            children.run(sleeper(tmp_path, "slow"), first, place="device", listen=listen)
        events, heed = heard()
        seconds = children.run(sleeper(tmp_path, "slow"), second, place="device", listen=heed)
        assert seconds >= 0.5
        assert (second / "written").exists()
        assert sum(event["event"] == "progress" for event in events) == 1


# What a child is given, and what it may say.

OTHERS = {
    "HF_TOKEN": "hf-hub-token",
    "HUGGING_FACE_HUB_TOKEN": "hf-hub-token",
    "WANDB_API_KEY": "wandb-key",
    "PREFECT_API_KEY": "prefect-key",
    "PREFECT_API_AUTH_STRING": "prefect:password",
    "PREFECT_ANYTHING_NEW": "prefect",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-password",
    "MLFLOW_TRACKING_URI": "http://mlflow",
    "OPENAI_BASE_URL": "http://elsewhere/v1",
    "OPENAI_API_BASE": "http://elsewhere/v1",
    "ANTHROPIC_BASE_URL": "http://elsewhere",
    "DEEPSEEK_API_BASE": "http://elsewhere",
}
THEIRS = {
    "FAR_KEY": "sk-far",
    "OPENAI_API_KEY": "sk-openai",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "HTTPS_PROXY": "http://proxy:3128",
    "BASE_URL_OF_NOBODY": "x",
    "A_PREFECT_NAME": "x",
}


def passed_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Literal["device", "network"],
    **fields: Any,
) -> dict[str, str]:
    """The environment that a child in this place finds itself in."""
    for name, value in {**OTHERS, **THEIRS}.items():
        monkeypatch.setenv(name, value)
    teacher = TeacherConfig(name="far", model="openai/x", **fields)
    out = empty(tmp_path / "out")
    with Children(RuntimeConfig.model_validate(RUNTIME), [teacher]) as children:
        children.run(sleeper(tmp_path, "tell"), out, place=place, listen=heard()[1])
    found: dict[str, str] = json.loads((out / "environment").read_text())
    return found


def test_who_talks_to_providers_gets_no_others_keys_and_no_redirects(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider's address in the environment would send the votes, and the key, to where neither
    recipe nor key says."""
    found = passed_on(tmp_path, monkeypatch, "network", api_key_env="FAR_KEY")
    assert set(OTHERS) & set(found) == set()
    assert {name: found.get(name) for name in THEIRS} == THEIRS
    assert os.environ["PATH"] == found["PATH"]


def test_what_a_teacher_names_is_passed_on(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {
        "api_key_env": "HF_TOKEN",
        "header_envs": {"X-Auth": "PREFECT_API_AUTH_STRING", "X-At": "OPENAI_BASE_URL"},
    }
    found = passed_on(tmp_path, monkeypatch, "network", **named)
    expected = {"HF_TOKEN", "PREFECT_API_AUTH_STRING", "OPENAI_BASE_URL"}
    assert set(OTHERS) & set(found) == expected
    assert {name: found[name] for name in expected} == {name: OTHERS[name] for name in expected}


def test_who_computes_here_has_the_keys_of_hub_and_trackers(
    stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    found = passed_on(tmp_path, monkeypatch, "device")
    assert {**OTHERS, **THEIRS}.items() <= found.items()
    assert "MASTER_ADDR" not in found, "it is none of several that train together"


@pytest.mark.parametrize("place", ["device", "network"])
def test_a_secret_that_looks_like_the_protocol_breaks_no_line_of_it(
    stages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Literal["device", "network"],
) -> None:
    """Digits of a loss, the name of an event, names of its fields."""
    values = {"DIGITS": "004521", "WORDS": "progress report", "OTHER_TOKEN": "message"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    headers = {"X-Digits": "DIGITS", "X-Words": "WORDS"}
    teacher = TeacherConfig(name="far", model="openai/x", header_envs=headers)
    events, listen = heard()
    with Children(RuntimeConfig.model_validate(RUNTIME), [teacher]) as children:
        with pytest.raises(VoteError) as refused:
            children.run(
                sleeper(tmp_path, "leak"), empty(tmp_path / "a"), place=place, listen=listen
            )
        children.run(sleeper(tmp_path, "work"), empty(tmp_path / "b"), place=place, listen=listen)
    assert str(refused.value) == "no *** for *** or level 20"
    told = {"event": "progress", "step": 4521, "total": 9, "loss": 0.004521, "message": "x***y"}
    assert told in events
    assert {"event": "progress", "step": 1, "total": 2, "loss": 0.5} in events
    log = {"event": "log", "logger": "***", "level": 20, "message": "*** of ***: ***"}
    assert log in events
    assert any(event.get("message") == "stderr has ***" for event in events)
    assert [e for e in events if "004521" in str(e.get("message"))] == []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_for(path: Path, seconds: float = 20) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} is not written"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize(("how", "number"), [("sleep", 15), ("deaf", 9)])
def test_closing_ends_a_child_at_work(stages: Path, tmp_path: Path, how: str, number: int) -> None:
    import threading

    children = Children(RuntimeConfig.model_validate({**RUNTIME, "grace_s": 1}))
    failed: list[Stopped] = []
    _, listen = heard()
    out = empty(tmp_path / "a")

    def work() -> None:
        try:
            children.run(sleeper(tmp_path, how), out, place="device", listen=listen)
        except Stopped as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    pid = int(wait_for(out / ("deaf" if how == "deaf" else "written")))
    children.close()
    thread.join(10)
    assert not thread.is_alive()
    assert not alive(pid)
    said = f"the process of sleeper[{how}] was killed by signal {number}: its run has ended"
    assert str(failed[0]) == said


def test_nothing_starts_once_the_run_has_ended(stages: Path, tmp_path: Path) -> None:
    """Not for those who waited for a place either: their run would outlive its end."""
    import threading

    children = Children(RuntimeConfig.model_validate({**RUNTIME, "children": 1}))
    failed: list[Stopped] = []
    _, listen = heard()

    def work(how: str) -> None:
        try:
            out = empty(tmp_path / how)
            children.run(sleeper(tmp_path, how), out, place="device", listen=listen)
        except Stopped as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=("sleep",))]
    threads[0].start()
    wait_for(tmp_path / "sleep" / "written")
    threads.append(threading.Thread(target=work, args=("work",)))
    threads[1].start()
    assert not children.closed
    children.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert children.closed
    assert sorted(str(error) for error in failed)[0] == "not started: the run has ended"
    assert len(failed) == 2
    assert not (tmp_path / "work" / "written").exists()
    for place in ("device", "network"):
        with pytest.raises(Stopped, match="not started: the run has ended"):
            children.run(sleeper(tmp_path, "work"), tmp_path, place=place, listen=listen)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(stages: Path, tmp_path: Path, how: signal.Signals) -> None:
    out = empty(tmp_path / "out")
    for stage in ("work", "sleep"):
        (tmp_path / f"{stage}.json").write_text(sleeper(tmp_path, stage).to_json())
    # Started for a task thread that is gone when the parent is killed, as Prefect's are.
    script = textwrap.dedent(
        """
        import sys, threading
        from pathlib import Path
        from lorapar_core.config import RuntimeConfig
        from lorapar_core.spec import Spec
        from tasks.children import Children

        folder = Path(sys.argv[1])
        children = Children(RuntimeConfig(child="resident"))

        def run(name, out):
            spec = Spec.from_json((folder / f"{name}.json").read_text())
            children.run(spec, folder / out, place="device", listen=lambda event: None)

        (folder / "first").mkdir()
        thread = threading.Thread(target=run, args=("work", "first"))
        thread.start()
        thread.join()
        run("sleep", "out")
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    pid = int(wait_for(out / "written"))
    assert alive(pid)
    assert (tmp_path / "first" / "written").read_text() == str(pid)
    parent.send_signal(how)
    parent.wait(10)
    end = time.monotonic() + 2
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(pid)


def test_a_child_outlives_the_thread_that_asked_for_it(
    stages: Path, tmp_path: Path, children: Children
) -> None:
    import threading

    _, listen = heard()
    for name in "ab":
        out = empty(tmp_path / name)
        thread = threading.Thread(
            target=children.run,
            args=(sleeper(tmp_path, "work"), out),
            kwargs={"place": "device", "listen": listen},
        )
        thread.start()
        thread.join(60)
    assert (tmp_path / "a" / "written").read_text() == (tmp_path / "b" / "written").read_text()


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("child"), tiny_model)


def scoring(inputs: Mapping[str, Path], scratch: Path, *, stop: int = 4) -> Any:
    config = {
        "system": 1,
        "start": 0,
        "stop": stop,
        "order_seed": 0,
        "batch_tokens": 300,
        "model": MODEL,
    }
    needed = {role: inputs[role] for role in ("base", "adapter", "tokens", "labels")}
    return spec("moments", config, needed, scratch)


def tuning(
    inputs: Mapping[str, Path], scratch: Path, *, system: int, max_steps: int = 2, **runtime: Any
) -> Any:
    section = SftConfig(batch_size=2, accumulation=3, max_steps=max_steps, learning_rate=1e-2)
    config = {
        "sft": section.model_dump(exclude={"prompt"}),
        "model": MODEL,
        "dropout": 0.1,
        "system": system,
        "data": "system",
        "epochs": 1.0,
    }
    roles = ("base", "adapter", "masks", "labels", "tokens")
    return spec("sft", config, {r: inputs[r] for r in roles}, scratch, runtime=runtime)


def test_a_resident_child_writes_what_a_fresh_one_writes(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    _, listen = heard()

    def run(children: Children, given: Any, name: str) -> dict[str, bytes]:
        out = empty(tmp_path / name)
        children.run(given, out, place="device", listen=listen)
        return steady_files(out)

    scored = scoring(inputs, tmp_path)

    def trained(scratch: str) -> Any:  # of its own: there are checkpoints in it afterwards
        return tuning(inputs, tmp_path / scratch, system=2)

    with Children(RuntimeConfig.model_validate({**RUNTIME, "child": "once"})) as once:
        fresh = [run(once, scored, "fresh.moments"), run(once, trained("one"), "fresh.sft")]
        assert not once._idle
    with Children(RuntimeConfig.model_validate({**RUNTIME, "child": "resident"})) as resident:
        # An epoch of 8 examples that ends within an accumulation, and a refusal, before it.
        run(resident, tuning(inputs, tmp_path / "three", system=1), "other")
        with pytest.raises(TooFewExamples, match="System 1 has 8 examples"):
            run(resident, scoring(inputs, tmp_path, stop=99), "refused")
        (child,) = resident._idle
        assert run(resident, trained("two"), "again.sft") == fresh[1]
        assert run(resident, scored, "again.moments") == fresh[0]
        assert resident._idle == [child]


def test_closing_lets_training_end_its_step_and_keep_a_checkpoint(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """No checkpoint is due for hours: it is there because the run was stopped."""
    import threading

    given = tuning(inputs, tmp_path / "scratch", system=2, max_steps=5000, checkpoint_s=1e9)
    events, hear = heard()
    failed: list[Stopped] = []
    children = Children(RuntimeConfig.model_validate(RUNTIME))

    def work() -> None:
        try:
            children.run(given, empty(tmp_path / "out"), place="device", listen=hear)
        except Stopped as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 120
    while not any(event["event"] == "progress" for event in events):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children.close()
    thread.join(30)
    assert str(failed[0]).startswith("stopped after step ")
    (kept,) = (tmp_path / "scratch" / "checkpoints").glob("step-*")
    (told,) = (event for event in events if event["event"] == "checkpoint")
    assert told["path"] == str(kept)
    assert f"stopped after step {told['step']} of 5000" in str(failed[0])


def test_a_trainer_that_somebody_else_stops_is_one_that_failed(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """So that its task is tried again: the run goes on."""
    given = tuning(inputs, tmp_path / "scratch", system=2, max_steps=5000, checkpoint_s=1e9)
    with Children(RuntimeConfig.model_validate(RUNTIME)) as children:

        def listen(event: Mapping[str, Any]) -> None:
            if event["event"] == "progress" and event["step"] == 1:
                (child,) = children._all
                child._process.terminate()

        with pytest.raises(StageFailed, match="somebody else told its process to end"):
            children.run(given, empty(tmp_path / "out"), place="device", listen=listen)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_whose_parent_is_gone_before_it_asks_does_no_work(
    stages: Path, tmp_path: Path
) -> None:
    out = empty(tmp_path / "out")
    request = {"spec": json.loads(sleeper(tmp_path, "work").to_json()), "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-m", "lorapar_core", "--serve", "1"],  # not its parent
        cwd=ROOT,
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
    assert list(out.iterdir()) == []


def alone(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorapar_core", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_one_stage_alone(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = scoring(inputs, tmp_path)
    (tmp_path / "spec.json").write_text(given.to_json())
    result = alone("moments", tmp_path / "spec.json", tmp_path / "new" / "out")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    here = run_stage("moments", given.config, given.inputs, tmp_path / "here")
    assert files(tmp_path / "new" / "out") == files(here)
    again = alone("moments", tmp_path / "spec.json", tmp_path / "new" / "out")
    assert again.returncode == 2
    assert "is not empty; give a new directory" in again.stderr


def test_a_stage_alone_refuses_in_one_line(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(scoring(inputs, tmp_path, stop=99).to_json())
    unknown = alone("nonsense", tmp_path / "spec.json", tmp_path / "a")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("lorapar: no stage 'nonsense'; there are dequantize, ")
    assert unknown.stderr.count("\n") == 1
    usage = alone("moments")
    assert (usage.returncode, usage.stderr.split(":")[0]) == (2, "usage")
    missing = alone("moments", tmp_path / "absent.json", tmp_path / "b")
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"lorapar: {tmp_path}/absent.json can't be read")
    assert missing.stderr.count("\n") == 1
    (tmp_path / "odd.json").write_text('{"stage": "moments"}')
    odd = alone("moments", tmp_path / "odd.json", tmp_path / "c")
    assert odd.returncode == 1
    assert odd.stderr.startswith(f"lorapar: {tmp_path}/odd.json is no spec")
    assert odd.stderr.count("\n") == 1
