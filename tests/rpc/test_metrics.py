"""The Prometheus endpoint."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from baton.rpc import metrics

_seen = metrics.counter("test_seen", "Things seen.", ("kind",))


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_an_endpoint_shows_our_metrics_and_the_build_until_it_stops() -> None:
    metrics.set_build_info("example")
    endpoint = metrics.serve_metrics("127.0.0.1:0")
    before = _seen.labels("b")._value.get()

    _seen.labels("b").inc()
    shown = fetch(endpoint.address)
    endpoint.stop()

    assert f'baton_test_seen_total{{kind="b"}} {before + 1}' in shown
    assert 'service="example"' in shown
    assert "process_cpu_seconds_total" in shown
    with pytest.raises(urllib.error.URLError):
        fetch(endpoint.address)


def test_a_taken_address_is_an_os_error() -> None:
    endpoint = metrics.serve_metrics("127.0.0.1:0")

    try:
        with pytest.raises(OSError, match="in use"):
            metrics.serve_metrics(endpoint.address)
    finally:
        endpoint.stop()


def test_the_text_can_be_rendered_without_an_endpoint() -> None:
    assert b"baton_test_seen" in metrics.render()
