"""The links to all prefill workers that gateways named so far."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from baton import convert
from baton.engine.engine import Engine
from baton.errors import BatonError
from baton.rpc.channels import TlsFiles
from baton.v1 import prefill_pb2 as pb
from baton.worker.boot import Worker
from baton.worker.host import EngineHost
from services.decode.prefill_link import PrefillLink, PrefillPeer, RemoteSession

RECONNECT_S = 2.0
"""How often a writer that we lost sight of is greeted, so that it says that its bytes are quiet."""


class PrefillLinks:
    """One link per prefill worker, made when first asked for, made anew when it broke."""

    def __init__(self, host: EngineHost, hello: pb.PrefillHello, tls: TlsFiles | None) -> None:
        self._host = host
        self._hello = hello
        self._tls = tls
        self._links: dict[PrefillPeer, asyncio.Task[PrefillLink]] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._quarantined: set[PrefillLink] = set()
        """Broken links whose writers may still write."""

    async def start(self) -> None:
        """Nothing to do: links are made when they are first asked for."""

    async def stop(self) -> None:
        """Closes all links."""
        for task in (*self._links.values(), *self._waits):
            task.cancel()
        for task in self._links.values():
            if _is_usable(task):
                await task.result().close()

    async def get(self, peer: PrefillPeer) -> PrefillLink:
        """A connected link. Raises `BatonError` where there is none to be had."""
        task = self._links.get(peer)
        if task is None or (task.done() and not _is_usable(task)):
            # Workers come and go: the links of those that are gone are forgotten here.
            self._links = {p: t for p, t in self._links.items() if not t.done() or _is_usable(t)}
            task = asyncio.create_task(self._connect(peer))
            self._links[peer] = task
        # Shielded: one request's cancellation must not take the link from the others.
        return await asyncio.shield(task)

    def release_when_quiet(
        self, link: PrefillLink, session: RemoteSession, sequence_id: str
    ) -> None:
        """Gives a cancelled sequence's blocks back once nobody can write into them."""
        task = asyncio.create_task(self._release_when_quiet(link, session, sequence_id))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def _connect(self, peer: PrefillPeer) -> PrefillLink:
        link = PrefillLink(peer, self._hello, self._host.engine.arena, self._tls)
        await link.connect()
        for lost in self._quarantined:
            lost.has_successor |= lost.lock_name == link.lock_name
        return link

    async def _release_when_quiet(
        self, link: PrefillLink, session: RemoteSession, sequence_id: str
    ) -> None:
        self._quarantined.add(link)
        while not await link.quiet(session, RECONNECT_S):
            if link.is_broken:
                with suppress(BatonError):
                    await self.get(link.peer)
        self._quarantined.discard(link)
        self._host.post(Engine.release, sequence_id)


def _is_usable(task: asyncio.Task[PrefillLink]) -> bool:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    return not task.result().is_broken


def make_hello(worker: Worker, *, verify: bool) -> pb.PrefillHello:
    """How this decode worker introduces itself to every prefill worker."""
    engine, segment = worker.host.engine, worker.segment
    hello = pb.PrefillHello(
        worker_id=worker.me.worker_id,
        epoch=worker.me.epoch,
        layout=convert.layout_to_pb(engine.layout),
        verify=verify,
        transports=worker.transports,
    )
    if segment is not None:
        hello.arena.name = segment.name
        hello.arena.nonce = segment.nonce
        hello.arena.block_count = engine.config.num_blocks
    return hello
