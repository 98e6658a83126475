"""Order of start, restarts with back-off, order of stop: with real, small processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import standin

from baton.cli.errors import ProcessFailed
from baton.cli.ports import PortPicker
from baton.cli.supervisor import Patience, State, Supervisor
from baton.cli.topology import Probe, ProcessSpec

PATIENCE = Patience(start_s=10.0, grace_s=2.0, first_pause_s=0.05, longest_pause_s=0.2)


class Witness:
    """An observer that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.states: defaultdict[str, list[State]] = defaultdict(list)
        self.details: list[str] = []
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def on_state(self, name: str, state: State, detail: str = "") -> None:
        self.states[name].append(state)
        self.details.append(detail)
        self._changed.set()

    def on_line(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}")

    async def wait_for(self, name: str, state: State, times: int) -> None:
        async with asyncio.timeout(10):
            while self.states[name].count(state) < times:
                self._changed.clear()
                await self._changed.wait()


class Stage:
    """Makes stand-in processes and reads what they noted."""

    def __init__(self, folder: Path) -> None:
        self._ports = PortPicker()
        self._events = folder / "events"

    def spec(self, name: str, *flags: str) -> ProcessSpec:
        port = self._ports.pick()
        command = (sys.executable, "-S", standin.__file__, "--name", name, "--port", str(port))
        command += ("--events", str(self._events), *flags)
        return ProcessSpec(name, command, f"127.0.0.1:{port}", Probe.REDIS)

    def events(self) -> list[str]:
        return self._events.read_text().splitlines() if self._events.exists() else []


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


async def test_stages_start_in_order_and_stop_in_reverse(stage):
    witness = Witness()
    supervisor = Supervisor(
        [(stage.spec("store"),), (stage.spec("worker"),), (stage.spec("door"),)], witness, PATIENCE
    )

    await supervisor.start()
    await supervisor.stop()

    starts = [event for event in stage.events() if event.endswith("start")]
    ends = [event for event in stage.events() if event.endswith("end")]
    assert starts == ["store start", "worker start", "door start"]
    assert ends == ["door end", "worker end", "store end"]
    assert witness.states["door"][-1] is State.STOPPED


async def test_lines_of_processes_reach_the_observer(stage):
    witness = Witness()
    supervisor = Supervisor([(stage.spec("worker"),)], witness, PATIENCE)

    await supervisor.start()
    await supervisor.stop()

    assert "worker: hello from worker" in witness.lines


async def test_process_that_ends_before_ready_fails_the_start(stage):
    witness = Witness()
    supervisor = Supervisor(
        [(stage.spec("good"), stage.spec("bad", "--exit-code", "3"))], witness, PATIENCE
    )

    with pytest.raises(ProcessFailed, match="bad ended before it was ready: exit code 3") as failed:
        await supervisor.start()
    await supervisor.stop()

    assert failed.value.last_lines[-1] == "warning: nothing to stand on"
    assert witness.states["bad"] == [State.STARTING]


async def test_process_that_never_gets_ready_fails_the_start(stage):
    spec = ProcessSpec("mute", (sys.executable, "-S", "-c", "input()"), "127.0.0.1:1")
    sleeper = (sys.executable, "-S", "-c", "import signal; signal.pause()")
    supervisor = Supervisor(
        [(ProcessSpec("mute", sleeper, spec.address),)], Witness(), Patience(start_s=0.3)
    )

    with pytest.raises(ProcessFailed, match=r"mute was not ready within 0\.3 s"):
        await supervisor.start()

    assert supervisor.pid("mute") == 0


async def test_command_that_does_not_exist_is_named(stage):
    spec = ProcessSpec("ghost", ("/no/such/program",), "127.0.0.1:1")
    supervisor = Supervisor([(spec,)], Witness(), PATIENCE)

    with pytest.raises(ProcessFailed, match="ghost ended before it was ready") as failed:
        await supervisor.start()

    assert "cannot run /no/such/program" in failed.value.last_lines[-1]


async def test_killed_process_starts_again_with_growing_pauses(stage):
    witness = Witness()
    supervisor = Supervisor([(stage.spec("worker"),)], witness, PATIENCE)
    await supervisor.start()

    for turn in range(1, 4):
        os.kill(supervisor.pid("worker"), signal.SIGKILL)
        await witness.wait_for("worker", State.READY, turn + 1)
    await supervisor.stop()

    fallen = [detail for detail in witness.details if "starting again" in detail]
    assert fallen == [
        f"ended by SIGKILL; starting again in {pause} s" for pause in ("0.05", "0.1", "0.2")
    ]


async def test_pause_is_short_again_after_a_stable_run(stage):
    witness = Witness()
    patience = Patience(start_s=10, grace_s=2, first_pause_s=0.05, stable_s=0.0)
    supervisor = Supervisor([(stage.spec("worker"),)], witness, patience)
    await supervisor.start()

    for turn in range(1, 3):
        os.kill(supervisor.pid("worker"), signal.SIGKILL)
        await witness.wait_for("worker", State.READY, turn + 1)
    await supervisor.stop()

    fallen = [detail for detail in witness.details if "starting again" in detail]
    assert fallen == ["ended by SIGKILL; starting again in 0.05 s"] * 2


async def test_stubborn_process_is_killed_after_the_grace(stage):
    witness = Witness()
    supervisor = Supervisor(
        [(stage.spec("worker", "--stubborn"),)], witness, Patience(start_s=10, grace_s=0.3)
    )
    await supervisor.start()
    pid = supervisor.pid("worker")

    await supervisor.stop()

    assert stage.events() == ["worker start", "worker term"]
    assert "killed: it did not end in time" in witness.details
    assert not is_running(pid)


async def test_draining_process_is_waited_for(stage):
    supervisor = Supervisor(
        [(stage.spec("store"),), (stage.spec("worker", "--drain-s", "0.3"),)], Witness(), PATIENCE
    )
    await supervisor.start()

    await supervisor.stop()

    assert stage.events()[-4:] == ["worker term", "worker end", "store term", "store end"]


async def test_kill_ends_everything_at_once(stage):
    supervisor = Supervisor([(stage.spec("worker", "--stubborn"),)], Witness(), PATIENCE)
    await supervisor.start()
    pid = supervisor.pid("worker")

    supervisor.kill()
    await supervisor.stop()

    assert not is_running(pid)
    assert "worker term" not in stage.events()


async def test_stop_during_start_leaves_no_process(stage):
    witness = Witness()
    sleeper = (sys.executable, "-S", "-c", "import signal; signal.pause()")
    supervisor = Supervisor([(ProcessSpec("slow", sleeper, "127.0.0.1:1"),)], witness, PATIENCE)
    starting = asyncio.create_task(supervisor.start())
    await witness.wait_for("slow", State.STARTING, 1)
    while not supervisor.pid("slow"):
        await asyncio.sleep(0.01)
    pid = supervisor.pid("slow")

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await supervisor.stop()

    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent-death signal")
def test_children_end_with_a_killed_parent(stage, tmp_path):
    spec = stage.spec("worker")
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio\n"
        "from baton.cli.display import Display\n"
        "from baton.cli.supervisor import Supervisor\n"
        "from baton.cli.topology import Probe, ProcessSpec\n"
        "from rich.console import Console\n"
        f"spec = ProcessSpec({spec.name!r}, {spec.command!r}, {spec.address!r}, Probe.REDIS)\n"
        "async def main():\n"
        "    supervisor = Supervisor([(spec,)], Display(Console(quiet=True), [spec.name]))\n"
        "    await supervisor.start()\n"
        "    print(supervisor.pid('worker'), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    with parent:
        child = int(parent.stdout.readline())
        assert is_running(child)

        parent.kill()

    wait_until_gone(child)
    assert stage.events() == ["worker start", "worker term", "worker end"]
