"""Parts of `lorapar up` and the demo that a whole run seldom reaches."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from artifacts import Store
from flows import demo, service
from flows.places import state_directory
from flows.summary import stage_table
from lorapar_core.errors import StageFailed

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "a.b"}, "a.b,127.0.0.1,localhost"),
        ({"NO_PROXY": "a.b", "no_proxy": "c"}, "a.b,c,127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_before_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: dict[str, str], after: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LORAPAR_HOME", str(tmp_path))
    told = service.environment("http://127.0.0.1:1")
    assert (told["NO_PROXY"], told["no_proxy"]) == (after, after)
    bypassed = urllib.request.proxy_bypass_environment("127.0.0.1", {"no": told["no_proxy"]})
    assert bypassed


def test_the_state_directory_is_one_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for written in ("real", "link", str(tmp_path / "link"), "./link/../real"):
        monkeypatch.setenv("LORAPAR_HOME", written)
        assert state_directory() == (tmp_path / "real").resolve()
    monkeypatch.setenv("LORAPAR_HOME", "~nobody-of-that-name/x")
    assert state_directory() == (tmp_path / "~nobody-of-that-name/x").resolve()


def test_a_daemon_is_known_as_soon_as_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment is what it is known by, and it has none in its first moments."""
    monkeypatch.setenv("LORAPAR_HOME", str(tmp_path))
    monkeypatch.setattr(service, "prefect", lambda *_: [*SLEEP, "server"])
    real, held = subprocess.Popen, []  # held, or Python warns that it is running still

    def popen(*words: Any, **more: Any) -> Any:
        held.append(real(*words, **more))
        return held[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    for _ in range(5):
        daemon = service._start("server", [], tmp_path, 1, service.environment("http://x"))
        assert service.running("server") == daemon
        assert daemon.process()
        service._stop_daemon("server", lambda _: None)
        assert daemon.process() is None
        assert service.running("server") is None
    for process in held:
        process.wait()


def test_one_process_that_is_gone_spares_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    class Process:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def terminate(self) -> None:
            if self.pid == 1:
                raise psutil.NoSuchProcess(self.pid)

        def kill(self) -> None:
            if self.pid == 2:  # it ended after all, just now
                raise psutil.NoSuchProcess(self.pid)
            killed.append(self.pid)

    monkeypatch.setattr(psutil, "wait_procs", lambda found, timeout: ([], found))
    service._end([Process(pid) for pid in (1, 2, 3, 4)])  # type: ignore[misc]
    assert killed == [1, 3, 4]


def test_the_stage_table_names_no_log() -> None:
    summary = {
        "stages": {"vote[a/2]": {"action": "computed", "seconds": 1.0}},
        "artifacts": {"vote[a/2]/vote_log.parquet": "1" * 64, "vote[a/2]/votes.parquet": "2" * 64},
    }
    assert stage_table(summary).splitlines()[-1].split() == [
        "vote[a/2]",
        "computed",
        "1.0",
        "2" * 12,
    ]


@pytest.mark.parametrize(
    ("state", "written"), [("FAILED", True), ("CRASHED", False), ("COMPLETED", False)]
)
def test_a_demo_whose_flow_failed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, written: bool
) -> None:
    """Also where the summary was written before the flow failed."""
    store = Store.open(tmp_path)
    if written:
        store.write_run("1f", {"report": "r"})
    answers = [{"id": "1f", "state_type": state}]
    monkeypatch.setattr(demo, "post", lambda url, **_: answers)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(StageFailed, match=r"the demo failed; .*worker\.log says why"):
        demo._run("http://x", "tag", store)


def test_an_interrupted_demo_cancels_its_run_where_the_service_is_not_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stops nothing that it didn't start."""
    ours = {name: service.Daemon(name, 1, 4321, "/s") for name in ("server", "worker")}
    asked: list[tuple[str, Any]] = []

    def post(url: str, **body: Any) -> Any:
        asked.append((url, body))
        runs = (("1f", "RUNNING"), ("2f", "COMPLETED"))
        return [{"id": name, "state_type": state} for name, state in runs]

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("LORAPAR_STORE", str(tmp_path))
    monkeypatch.setattr(service, "running", ours.get)
    monkeypatch.setattr(service, "up", lambda **_: 0)
    monkeypatch.setattr(demo, "post", post)
    for name in ("down", "stop_worker"):
        monkeypatch.setattr(service, name, lambda: pytest.fail("it is the user's"))
    monkeypatch.setattr(subprocess, "run", interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        assert demo.main() == 130
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    api = "http://127.0.0.1:4321/api/flow_runs"
    assert asked[0][0] == f"{api}/filter"
    assert asked[1:] == [(f"{api}/1f/set_state", {"state": {"type": "CANCELLING"}})]
    assert "stopped; what is finished is kept" in capsys.readouterr().err


def test_a_server_that_is_gone_does_not_hide_why_the_demo_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def post(url: str, **_: Any) -> Any:
        asked.append(url)
        raise service.ServiceError("it doesn't answer")

    monkeypatch.setattr(demo, "post", post)
    demo._cancel("http://x", "tag")
    assert asked == ["http://x/api/flow_runs/filter"]
