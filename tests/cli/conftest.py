"""A port that somebody holds."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def taken_port():
    """Listened on for as long as the test runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
