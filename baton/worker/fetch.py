"""Brings blocks from kvstore into a sequence's reserved blocks, where that beats computing."""

from __future__ import annotations

import time

from baton.engine.types import Reserved, StepOutput
from baton.policy.fetch import FetchPolicy
from baton.policy.learned import Road
from baton.policy.rendezvous import group_keys
from baton.transfer.kvstore import KvStoreClient
from baton.worker.host import EngineHost


class BlockFetcher:
    """Fetches a reservation's missing blocks. Without a kvstore it is off and fetches nothing."""

    def __init__(self, host: EngineHost, client: KvStoreClient | None) -> None:
        self._engine = host.engine
        self._client = client
        self._policy = FetchPolicy()
        if client is not None:
            host.subscribe(self._learn, is_late=True)

    @property
    def is_on(self) -> bool:
        """Whether sequences should be reserved before they run, to look for their blocks."""
        return self._client is not None

    @property
    def road(self) -> Road:
        """What fetching costs, as measured so far."""
        return Road(self._policy.latency_s * 1e6, self._policy.fetch.per_second / 1e6)

    async def fetch(self, reserved: Reserved, num_known: int) -> int:
        """Fetches the longest run of missing full blocks; returns how many tokens they hold.

        At least the last known token stays to be computed: its logits are wanted.
        """
        layout = self._engine.layout
        first = reserved.num_cached_tokens // layout.block_size
        stop = (num_known - 1) // layout.block_size
        if self._client is None or stop <= first:
            return 0
        decision = self._policy.decide(stop - first, layout.block_bytes, layout.block_size)
        if not decision.should_fetch:
            return 0

        def write(index: int, data: bytes | memoryview) -> None:
            self._engine.arena.write(reserved.block_ids[first + index], data)

        began = time.monotonic()
        keys = list(reserved.block_keys[first:stop])
        groups = group_keys(reserved.block_keys)[first:stop]
        num_blocks = await self._client.get(
            keys, layout.namespace, layout.block_bytes, write, groups
        )
        self._policy.observe_fetch(num_blocks * layout.block_bytes, time.monotonic() - began)
        return num_blocks * layout.block_size

    def _learn(self, output: StepOutput) -> None:
        """How fast prompts are computed here, from steps that did little else."""
        load = output.load
        if load.num_prompt_tokens > 8 * load.num_decode_tokens:
            self._policy.observe_compute(load.num_prompt_tokens, load.step_us / 1e6)
