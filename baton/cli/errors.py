"""How a command ends when it cannot go on."""

from __future__ import annotations


class CommandError(Exception):
    """One sentence for the user: what is wrong, with its value, and what to do."""


class ProcessFailed(CommandError):
    """A process did not become ready; carries its last lines."""

    def __init__(self, message: str, name: str, last_lines: list[str]) -> None:
        super().__init__(message)
        self.name = name
        self.last_lines = last_lines
