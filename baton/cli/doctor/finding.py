"""What a check reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Grade(IntEnum):
    """How bad it is; the higher, the worse."""

    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report, and what to do about it."""

    grade: Grade
    text: str
    advice: str = ""


Check = Callable[[], list[Finding]]
