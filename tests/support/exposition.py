"""Reads a process's Prometheus endpoint."""

from __future__ import annotations

import urllib.request


def sample_sum(url: str, name: str) -> float:
    """The sum of a metric's samples over all its labels."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    values = [line.rsplit(" ", 1) for line in lines if line.partition("{")[0].split(" ")[0] == name]
    return sum(float(value) for _, value in values)
