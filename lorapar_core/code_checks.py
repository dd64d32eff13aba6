"""What becomes of programs that a model wrote, each run with its tests, apart from the machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lorapar_core.config import Sandbox
from lorapar_core.data.problems import Problem
from lorapar_core.python_source import parsed
from lorapar_core.sandbox import check_outcome, outcome
from lorapar_core.sides import Outcome


def outcomes(
    programs: Sequence[tuple[str, Problem]], *, sandbox: Sandbox, workers: int
) -> list[Outcome]:
    """Of each program and the problem that it answers, in their order.

    Raises:
        SandboxError: programs can't be run apart.
    """

    def one(job: tuple[str, Problem]) -> Outcome:
        program, problem = job
        if not problem.entry_point:
            return outcome(program, problem.tests, sandbox=sandbox)
        return check_outcome(
            program,
            tests=problem.tests,
            entry_point=problem.entry_point,
            helpers=_python_or_nothing(problem.prompt),
            sandbox=sandbox,
        )

    with ThreadPoolExecutor(max(1, workers)) as threads:
        return list(threads.map(one, programs))


def _python_or_nothing(prompt: str) -> str:
    """What tests may use of a prompt: the functions of HumanEval's, nothing of a task in words."""
    try:
        parsed(prompt)
    except SyntaxError:
        return ""
    return prompt
