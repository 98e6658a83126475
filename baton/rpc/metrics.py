"""Prometheus metrics of a process, all named `baton_…`, and the endpoint that shows them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets for times from one hop to one long request."""


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """A count that only grows. Define metrics at module level: a name exists once in a process."""
    return Counter(f"baton_{name}", text, labels, registry=REGISTRY)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A value that goes up and down."""
    return Gauge(f"baton_{name}", text, labels, registry=REGISTRY)


def histogram(
    name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
) -> Histogram:
    """A distribution, seconds unless the name says otherwise."""
    return Histogram(f"baton_{name}", text, labels, buckets=buckets, registry=REGISTRY)


_build_info = gauge("build_info", "Always 1; says what runs.", ("version", "service", "python"))


def set_build_info(service: str) -> None:
    """Shows which version of which service runs."""
    try:
        release = version("baton-serve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        release = "unknown"
    _build_info.labels(release, service, platform.python_version()).set(1)


def render() -> bytes:
    """All metrics in `CONTENT_TYPE`, for processes with an HTTP server of their own."""
    return generate_latest(REGISTRY)


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """A running endpoint with a thread of its own."""

    address: str
    stop: Callable[[], None]


def serve_metrics(address: str) -> MetricsEndpoint:
    """Serves `/metrics` on `host:port`; port 0 picks a free one. Raises OSError when taken."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    server, thread = start_http_server(int(port), host, REGISTRY)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    shown = f"[{host}]" if ":" in host else host
    return MetricsEndpoint(f"{shown}:{server.server_port}", stop)
