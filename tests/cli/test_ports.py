"""Free ports."""

from __future__ import annotations

import pytest

from baton.cli import ports
from baton.cli.ports import PortPicker, is_free


def test_taken_port_is_not_free(taken_port):
    assert not is_free(taken_port)


def test_picked_ports_are_free_and_differ():
    picker = PortPicker()

    picked = [picker.pick() for _ in range(50)]

    assert len(set(picked)) == 50
    assert all(is_free(port) for port in picked)


def test_full_machine_is_an_error(monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda port, host: False)

    with pytest.raises(OSError, match="no free port"):
        PortPicker().pick()
