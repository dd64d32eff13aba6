"""Whether programs that a model wrote pass their tests, each apart from the rest of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lorapar_core.config import Sandbox
from lorapar_core.data.problems import Problem
from lorapar_core.sandbox import passes


def programs_pass(
    programs: Sequence[tuple[str, Problem]], *, sandbox: Sandbox, workers: int
) -> list[bool]:
    """Of each program and the problem that it answers, in their order.

    Raises:
        SandboxError: programs can't be run apart.
    """

    def one(job: tuple[str, Problem]) -> bool:
        program, problem = job
        call = f"\ncheck({problem.entry_point})" if problem.entry_point else ""
        return passes(program, problem.tests + call, sandbox=sandbox)

    with ThreadPoolExecutor(max(1, workers)) as threads:
        return list(threads.map(one, programs))
