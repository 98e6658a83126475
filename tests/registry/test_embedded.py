"""The Redis that comes along."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError
from registry_world import eventually

from baton.registry import embedded
from baton.registry.embedded import EmbeddedRedis, RedisNotFound, find_server


def test_server_answers_as_soon_as_it_has_started(redis_server: EmbeddedRedis) -> None:
    with Redis.from_url(redis_server.url) as client:
        assert client.ping()


def test_server_listens_on_loopback_only_and_keeps_nothing(redis_server: EmbeddedRedis) -> None:
    with Redis.from_url(redis_server.url) as client:
        settings = client.config_get("bind", "save", "appendonly", "maxmemory", "maxmemory-policy")

    assert settings["bind"] == "127.0.0.1"
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"
    assert int(settings["maxmemory"]) == 256 << 20
    assert settings["maxmemory-policy"] == "volatile-lru"


def test_two_servers_do_not_share_a_port(redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis() as other:
        assert other.port != redis_server.port


def test_restarted_server_has_its_port_and_no_data() -> None:
    with EmbeddedRedis() as server, Redis.from_url(server.url) as client:
        url = server.url
        client.set("name", "value")

        server.kill()
        server.start()

        assert server.url == url
        assert client.get("name") is None


def test_stopped_server_is_gone() -> None:
    server = EmbeddedRedis().start()
    pid = server.pid

    server.stop()
    server.stop()

    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert server.pid is None
    with Redis.from_url(server.url) as client, pytest.raises(ConnectionError):
        client.ping()


def test_taken_port_is_refused_with_the_servers_own_words(redis_server: EmbeddedRedis) -> None:
    with pytest.raises(RuntimeError, match=r"on port \d+ ended at once; its last words: .*in use"):
        EmbeddedRedis(port=redis_server.port).start()


def test_strangers_port_is_not_taken_for_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]

        with pytest.raises(RuntimeError, match="ended at once"):
            EmbeddedRedis(port=port).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_server_dies_with_its_parent(how: signal.Signals) -> None:
    program = (
        "import time; from baton.registry.embedded import EmbeddedRedis;"
        "print(EmbeddedRedis().start().pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()

        parent.send_signal(how)

    await eventually(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # whoever adopts orphans here may be slow to bury them


def test_server_on_the_path_comes_first_and_its_link_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-check-rdb"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link = tmp_path / "redis-server"
    link.symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == str(link)

    valkey = tmp_path / "valkey-server"
    os.link(program, valkey)
    assert find_server() == str(valkey)


def test_without_any_server_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "bundled_server", lambda: None)

    with pytest.raises(RedisNotFound, match="--redis-url"):
        EmbeddedRedis().start()
