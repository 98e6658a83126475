"""The two commands, whole: real processes, real Redis, a real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]


def start_baton(*arguments: str, **pipes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "baton.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **pipes,
    )


class Up:
    """A running `baton up` and what it has printed so far."""

    def __init__(self, *flags: str) -> None:
        self.process = start_baton("up", "--port", "0", "--http-port", "0", *flags)
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> re.Match[str]:
        """The first line from here on that matches; fails at the end of the output."""
        for line in self.process.stdout:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line matches {pattern!r}:\n{''.join(self.lines[-40:])}")


@pytest.fixture
def up():
    started = Up("--log-level", "info")
    yield started
    started.process.kill()
    started.process.stdout.close()
    started.process.wait()


def ask(address: str) -> subprocess.CompletedProcess[str]:
    process = start_baton(
        "generate", "What is a process?", "--address", address, "--max-tokens", "8"
    )
    output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, output)


def worker_pids(parent: int, role: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and f"services.{role}" in command:
            found.append(int(folder.name))
    return found


def test_demo_streams_an_answer_and_says_who_worked():
    started = time.monotonic()
    process = start_baton("demo", "--max-tokens", "24")
    output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert "computed by prefill-0, handed over by shm" in output
    assert "decoded by decode-0" in output
    assert re.search(r"TTFT +\d+\.\d ms", output)
    assert re.search(r"ITL +\d+\.\d ms", output)
    assert re.search(r"speed +\d+\.\d tokens/s +\d+ in, \d+ out", output)
    assert "all processes stopped" in output
    assert time.monotonic() - started < 120


def test_demo_without_a_model_fails_with_a_sentence(tmp_path):
    process = start_baton("demo", "--model", str(tmp_path))
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert output == (
        f"error: {tmp_path} holds no config.json; --model names a Hugging Face model folder.\n"
    )


def test_demo_with_a_broken_model_shows_the_workers_last_words(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    process = start_baton("demo", "--model", str(tmp_path))
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert re.search(r"(prefill|decode)-0 ended before it was ready: exit code", output)
    assert "config.json" in output


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_up_answers_restarts_a_killed_worker_and_drains(up):
    address = up.read_until(r"Baton gRPC +(\S+)")[1]
    first = ask(address)

    (worker,) = worker_pids(up.process.pid, "decode")
    os.kill(worker, signal.SIGKILL)
    up.read_until("fallen: ended by SIGKILL; starting again")
    up.read_until("decode-0 +ready")
    second = ask(address)

    chat = start_baton("chat", "--address", address, "--max-tokens", "8", stdin=subprocess.PIPE)
    talk, _ = chat.communicate("What is a process?\n/clear\n/exit\n", timeout=60)

    up.process.send_signal(signal.SIGINT)
    up.read_until("^stopped")
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout
    assert "decoded by decode-0" in second.stdout
    assert up.process.wait(30) == 0
    assert chat.returncode == 0
    assert re.search(r"TTFT \d+ ms.*forgotten", talk, re.DOTALL)
    assert worker_pids(up.process.pid, "decode") == []
