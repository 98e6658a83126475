"""Shared segments: what is mapped is the same memory, and death is told from silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from baton.transfer.shm import SHM_FOLDER, SharedSegment, owner_is_dead, sweep_dead_segments

OWNER = """
import sys, time
from baton.transfer.shm import SharedSegment
segment = SharedSegment.create(4096)
print(segment.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner():
    """A process that owns a segment."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()
    sweep_dead_segments()


def test_peer_sees_what_owner_writes():
    segment = SharedSegment.create(8192)

    peer = SharedSegment.open(segment.name, segment.nonce, 8192)
    segment.buffer[5000] = 77

    assert peer.buffer[5000] == 77
    peer.close()
    segment.close()


def test_segment_with_another_nonce_is_refused():
    segment = SharedSegment.create(4096)

    with pytest.raises(OSError, match="other memory"):
        SharedSegment.open(segment.name, b"x" * 16, 4096)

    segment.close()


def test_segment_smaller_than_expected_is_refused():
    segment = SharedSegment.create(4096)

    with pytest.raises(OSError, match="4096 bytes, 8192 were expected"):
        SharedSegment.open(segment.name, segment.nonce, 8192)

    segment.close()


@pytest.mark.parametrize("name", ["../etc/passwd", "baton-../../x", "", "baton-12345"])
def test_name_that_is_no_segment_is_refused(name):
    with pytest.raises(OSError, match="not the name of a segment"):
        SharedSegment.open(name, b"", 1)


def test_more_than_the_host_has_is_refused_and_leaves_nothing():
    before = set(os.listdir(SHM_FOLDER))

    with pytest.raises(OSError):  # noqa: PT011 - the number differs between kernels
        SharedSegment.create(1 << 60)

    assert set(os.listdir(SHM_FOLDER)) <= before


def test_stopped_owner_is_alive_and_killed_owner_is_dead(owner):
    name = owner.stdout.readline().strip()

    owner.send_signal(signal.SIGSTOP)
    assert not owner_is_dead(name)

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert owner_is_dead(name)


def test_sweep_removes_what_a_killed_owner_left_and_nothing_else(owner):
    name = owner.stdout.readline().strip()
    mine = SharedSegment.create(4096)
    owner.kill()
    owner.wait()

    sweep_dead_segments()

    assert not (SHM_FOLDER / name).exists()
    assert (SHM_FOLDER / mine.name).exists()
    mine.close()
    assert owner_is_dead(mine.name)
