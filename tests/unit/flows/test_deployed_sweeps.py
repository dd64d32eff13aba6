"""A sweep's trials as flow runs, on a server and a store that are made up: what is tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed, Pending

from artifacts import Store
from flows import deployed_sweeps
from flows.deployed import trial_of, trial_tags
from flows.deployed_sweeps import Trials
from flows.sweeps import SWEEPS, Sweep, Trial, trials
from lorapar_core.errors import ConfigError

FAILS, SUCCEEDS = Failed(), Completed()


@dataclass
class Server:
    """Runs end while the sweep waits; what they make is in its store if the worker has that one."""

    ends: Callable[[str], State[Any]]
    same_store: bool = True
    kept: set[str] = field(default_factory=set)
    """Names of the trials whose results are in the store."""
    begun: list[str] = field(default_factory=list)
    """Names of trials, in the order in which they were begun."""
    most: int = 0
    """Of runs that were under way side by side."""
    _runs: dict[UUID, FlowRun] = field(default_factory=dict)
    _under_way: set[UUID] = field(default_factory=set)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def run_deployment(self, _name: str, *, tags: list[str], **_how: Any) -> FlowRun:
        run = FlowRun(id=uuid4(), flow_id=uuid4(), name=trial_of(tags), state=Pending())
        self._runs[run.id] = run
        self._begin(run)
        return run.model_copy()

    def set_flow_run_state(self, run_id: UUID, state: State[Any], *, force: bool) -> None:
        assert force, "it has ended, and would not be begun again"
        self._runs[run_id].state = state
        self._begin(self._runs[run_id])

    def read_flow_run(self, run_id: UUID) -> FlowRun:
        return self._runs[run_id].model_copy()

    def end_all(self, _seconds: float) -> None:
        for run_id in self._under_way:
            run = self._runs[run_id]
            run.state = self.ends(run.name)
            if run.state.is_completed() and self.same_store:
                self.kept.add(run.name)
        self._under_way.clear()

    def _begin(self, run: FlowRun) -> None:
        self._under_way.add(run.id)
        self.begun.append(run.name)
        self.most = max(self.most, len(self._under_way))


def carried(server: Server, store: Path, patch: pytest.MonkeyPatch) -> tuple[Trials, list[str]]:
    """A sweep's six trials on this server, two at a time, and their names."""
    patch.setattr(deployed_sweeps, "get_client", lambda **_how: server)
    patch.setattr(deployed_sweeps, "run_deployment", server.run_deployment)
    patch.setattr(deployed_sweeps, "get_run_logger", lambda: logging.getLogger("test"))
    patch.setattr(deployed_sweeps, "time", SimpleNamespace(sleep=server.end_all))

    def is_whole(_sweep: Sweep, trial: Trial, _store: Store) -> bool:
        return trial.name in server.kept

    patch.setattr(deployed_sweeps, "is_whole", is_whole)
    found = trials(SWEEPS["order"], "gsm8k-llama2-7b", seeds=(0, 1, 2), overrides={})
    made = Trials(
        SWEEPS["order"],
        found,
        recipe="gsm8k-llama2-7b",
        parent=uuid4(),
        at_once=2,
        store=Store.open(store),
    )
    return made, [trial.name for trial in found]


def test_what_finished_is_begun_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(lambda _name: SUCCEEDS)
    made, names = carried(server, tmp_path, monkeypatch)
    assert made.carry_out() == {}
    assert server.begun == names


def test_what_is_lost_is_carried_out_again_at_the_same_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(lambda _name: SUCCEEDS)
    made, names = carried(server, tmp_path, monkeypatch)
    made.carry_out()
    server.begun.clear()
    server.kept -= set(names[1:])
    assert made.carry_out() == {}
    assert server.begun == names[1:]
    assert server.most == 2


def test_results_that_come_into_another_store_are_asked_for_twice_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(lambda _name: SUCCEEDS, same_store=False)
    made, names = carried(server, tmp_path, monkeypatch)
    assert made.carry_out() == {}
    assert server.begun == [*names, *names]


def test_what_failed_is_not_begun_again_for_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(lambda name: FAILS if "seed 1" in name else SUCCEEDS)
    made, names = carried(server, tmp_path, monkeypatch)
    failed = made.carry_out()
    assert list(failed) == [name for name in names if "seed 1" in name]
    server.begun.clear()
    server.kept.discard(names[0])
    assert made.carry_out() == failed
    assert server.begun == [names[0]]


def test_a_point_that_there_isnt_is_named_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"has no point 'theta 0\.35'"):
        deployed_sweeps.sweep.fn(sweep="theta", recipe="demo", only=["theta 0.35"])


def test_none_at_once_is_refused_by_the_deployment() -> None:
    assert deployed_sweeps.sweep.parameters.properties["at_once"]["exclusiveMinimum"] == 0


def test_a_trials_run_is_called_by_its_trial() -> None:
    tags = ["lorapar", *trial_tags(uuid4(), "theta 0.9, random, seed 2"), "nightly"]
    assert trial_of(tags) == trial_of(tags[::-1]) == "theta 0.9, random, seed 2"
    assert trial_of(["lorapar", "nightly"]) == trial_of([]) == ""
