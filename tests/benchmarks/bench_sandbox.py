"""The sandbox: HumanEval's canonical solutions, a mutant of each, and a thousand attacks.

HumanEval is read from LORAPAR_HUMANEVAL, or from where the tests find published data; without it
its figures are left out. Times are of one canonical solution after another.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from pathlib import Path

from figures import figure, machine
from hostile_programs import ATTACKS, attack
from human_eval import canonical
from mutants import failing_mutant

from lorapar_core.sandbox import CodeCheck, check_all, check_outcome, isolation
from lorapar_core.sides import Limits

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
RUNS = 1000
SHORT = Limits(cpu_s=1, wall_s=5)


def main() -> None:
    machine(threads=1)
    print(f'{{"isolation": "{isolation()}", "attacks": {len(ATTACKS)}}}', flush=True)
    path = Path(os.environ.get("LORAPAR_HUMANEVAL", PUBLISHED))
    if path.is_file():
        problems = canonical(path)
        passed, seconds, processor = timed(problems)
        figure("sandbox_canonical_passed", passed, f"of {len(problems)}")
        figure("sandbox_ms_median", 1000 * statistics.median(seconds), "ms")
        figure("sandbox_ms_p95", 1000 * statistics.quantiles(seconds, n=20)[-1], "ms")
        figure("sandbox_cpu_ms_mean", 1000 * processor / len(problems), "ms, all processes")
        mutated = [failing_mutant(problem) for problem in problems]
        failed = check_all(mutated, sandbox="isolated", workers=2).count(False)
        figure("sandbox_mutants_failed", failed, f"of {len(mutated)}")
    counts = attack(RUNS, sandbox="isolated", workers=2, limits=SHORT)
    figure("sandbox_hostile_runs", counts.runs, "runs")
    figure("sandbox_hostile_leaks", counts.leaks, "of them")
    figure("sandbox_hostile_false_passes", counts.false_passes, "of them")
    figure("sandbox_hostile_survivors", counts.survivors, "processes")


def timed(checks: list[CodeCheck]) -> tuple[int, list[float], float]:
    """How many pass, the seconds that each took, and the processors' seconds of all."""
    passed, seconds, before = 0, [], _spent()
    for check in checks:
        started = time.perf_counter()
        found = check_outcome(
            check.program,
            tests=check.tests,
            entry_point=check.entry_point,
            helpers=check.helpers,
            sandbox="isolated",
        )
        passed += found == "passed"
        seconds.append(time.perf_counter() - started)
    return passed, seconds, _spent() - before


def _spent() -> float:
    """Seconds on processors, of this process and those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
