"""`baton doctor`: looks at the machine, says what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from baton.cli.doctor import checks
from baton.cli.doctor.finding import Check, Finding, Grade

_LOOKS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}


def run_doctor(model: Path, ports: dict[str, int], redis_url: str) -> int:
    """Prints one line per finding. Returns exit code 1 if anything fails."""
    console = Console()
    all_checks: list[tuple[str, Check]] = [
        ("python", checks.check_python),
        ("ports", lambda: checks.check_ports(ports)),
        ("redis", lambda: checks.check_redis(redis_url)),
        ("memory", checks.check_shared_memory),
        ("gpu", checks.check_gpus),
        ("torch", checks.check_torch),
        ("kernels", checks.check_kernels),
        ("model", lambda: checks.check_model(model)),
    ]
    worst = Grade.OK
    for name, check in all_checks:
        for finding in _examine(check):
            worst = max(worst, finding.grade)
            grade = Text(f"{finding.grade.name.lower():<5}", _LOOKS[finding.grade])
            console.print(Text.assemble(grade, f"{name:<8} ", finding.text), soft_wrap=True)
            if finding.advice:
                console.print(Text(f"{'':14}→ {finding.advice}", "dim"), soft_wrap=True)
    verdict = {
        Grade.OK: "Everything is in order.",
        Grade.WARN: "It will run; the warnings say what could be better.",
        Grade.FAIL: "It will not run before the failures above are repaired.",
    }
    console.print(verdict[worst])
    return int(worst is Grade.FAIL)


def _examine(check: Check) -> list[Finding]:
    """A check that breaks is itself a finding: it never hides those that follow."""
    try:
        return check()
    except Exception as error:
        return [Finding(Grade.FAIL, f"could not be checked: {type(error).__name__}: {error}")]
