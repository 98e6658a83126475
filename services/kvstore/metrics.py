"""What kvstore shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from baton.rpc.metrics import REGISTRY, counter
from services.kvstore.leases import Leases
from services.kvstore.tiers import Tiers

moved_bytes = counter(
    "kvstore_moved_bytes",
    "Bytes of blocks taken in and given out, by stream or by shared memory.",
    ("way", "path"),
)
refused = counter("kvstore_refused_blocks", "Blocks refused at a Put.", ("reason",))

_Levels = tuple[tuple[str, str, str, float], ...]
"""Name, help, tier, value."""


class _StoreMetrics(Collector):
    """The tiers' own counts, read when Prometheus asks."""

    def __init__(self) -> None:
        self.tiers: Tiers | None = None
        self.leases: Leases | None = None

    def collect(self) -> Iterator[Metric]:
        """The counts of the store followed; nothing before there is one."""
        if self.tiers is None or self.leases is None:
            return
        yield from _families(GaugeMetricFamily, self._levels(self.tiers))
        yield from _families(CounterMetricFamily, self._totals(self.tiers))
        leases = self.leases
        for name, text, level in (
            ("misses", "Keys asked for that no tier held.", self.tiers.store.stats.num_misses),
            ("expired_leases", "Leases that readers did not end.", leases.num_expired),
        ):
            yield CounterMetricFamily(f"baton_kvstore_{name}", text, level)
        yield GaugeMetricFamily("baton_kvstore_leased_blocks", "Leased now.", leases.num_blocks)

    def _levels(self, tiers: Tiers) -> _Levels:
        store, disk = tiers.store, tiers.disk
        rows: _Levels = (
            ("capacity_bytes", "Most bytes held.", "dram", store.capacity_bytes),
            ("used_bytes", "Bytes held and being uploaded.", "dram", store.used_bytes),
            ("blocks", "Blocks held.", "dram", len(store)),
        )
        if disk is None:
            return rows
        return (
            *rows,
            ("capacity_bytes", "", "disk", disk.capacity_bytes),
            ("used_bytes", "", "disk", disk.used_bytes),
            ("blocks", "", "disk", len(disk)),
            ("recovery_seconds", "Of the last start.", "disk", disk.stats.recovery_s),
            ("recovered_blocks", "At the last start.", "disk", disk.stats.num_recovered),
        )

    def _totals(self, tiers: Tiers) -> _Levels:
        stats, disk = tiers.store.stats, tiers.disk
        unwanted = "Blocks refused for those asked for more often."
        rows: _Levels = (
            ("hits", "Blocks read.", "dram", stats.num_hits),
            ("evictions", "Blocks evicted.", "dram", stats.num_evicted),
            ("unwanted_blocks", unwanted, "dram", stats.num_unwanted),
            ("corrupt_blocks", "Held blocks that lost their checksum.", "dram", stats.num_corrupt),
        )
        if disk is None:
            return rows
        return (
            *rows,
            ("hits", "", "disk", disk.stats.num_hits),
            ("evictions", "", "disk", disk.stats.num_evicted),
            ("unwanted_blocks", "", "disk", disk.stats.num_unwanted),
            ("corrupt_blocks", "", "disk", disk.stats.num_corrupt),
            ("written_blocks", "Blocks written.", "disk", disk.stats.num_written),
            ("written_bytes", "Rewritten ones included.", "disk", disk.stats.written_bytes),
            ("kept_blocks", "Rewritten when reclaimed.", "disk", disk.stats.num_kept),
            ("late_blocks", "Not written: the disk was behind.", "disk", disk.stats.num_refused),
        )


def _families(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], rows: _Levels
) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for name, text, tier, value in rows:
        if name not in families:
            families[name] = kind(f"baton_kvstore_{name}", text, labels=("tier",))
        families[name].add_metric((tier,), value)
    yield from families.values()


_store_metrics = _StoreMetrics()
REGISTRY.register(_store_metrics)


def follow(tiers: Tiers, leases: Leases) -> None:
    """Shows these."""
    _store_metrics.tiers = tiers
    _store_metrics.leases = leases
