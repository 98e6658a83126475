"""What kvstore shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from baton.rpc.metrics import REGISTRY, counter
from services.kvstore.store import BlockStore

moved_bytes = counter("kvstore_moved_bytes", "Bytes of blocks taken in and given out.", ("way",))
refused = counter("kvstore_refused_blocks", "Blocks refused at a Put.", ("reason",))


class _StoreMetrics(Collector):
    """The store's own counts, read when Prometheus asks."""

    def __init__(self) -> None:
        self.store: BlockStore | None = None

    def collect(self) -> Iterator[Metric]:
        """The counts of the store followed; nothing before there is one."""
        if self.store is None:
            return
        store, stats = self.store, self.store.stats
        for name, text, level in (
            ("capacity_bytes", "Most bytes held.", store.capacity_bytes),
            ("used_bytes", "Bytes of blocks held and being uploaded.", store.used_bytes),
            ("blocks", "Blocks held.", len(store)),
        ):
            yield GaugeMetricFamily(f"baton_kvstore_{name}", text, level)
        for name, text, total in (
            ("hits", "Blocks read.", stats.num_hits),
            ("misses", "Keys asked for and not held.", stats.num_misses),
            ("evictions", "Blocks evicted.", stats.num_evicted),
            ("corrupt_blocks", "Held blocks that lost their checksum.", stats.num_corrupt),
        ):
            yield CounterMetricFamily(f"baton_kvstore_{name}", text, total)


_store_metrics = _StoreMetrics()
REGISTRY.register(_store_metrics)


def follow(store: BlockStore) -> None:
    """Shows this store."""
    _store_metrics.store = store
