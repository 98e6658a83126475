"""What a worker's engine does, for Prometheus."""

from __future__ import annotations

from baton.engine.types import BlockEventKind, StepOutput
from baton.rpc.metrics import counter, gauge, histogram

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_steps = histogram("engine_step_seconds", "Time of an engine step.", buckets=STEP_SECONDS)
_tokens = counter("engine_tokens_total", "Tokens computed, by what they were for.", ("kind",))
_sequences = gauge("engine_sequences", "Sequences in the engine.", ("state",))
_waiting_tokens = gauge("engine_waiting_tokens", "Known tokens that are still to be computed.")
_blocks = gauge("engine_blocks", "Blocks of the arena.", ("state",))
_evictions = counter("engine_evicted_blocks_total", "Blocks that left the prefix cache.")
_preemptions = gauge("engine_preemptions", "Sequences that lost their blocks, since the start.")


def observe(output: StepOutput) -> None:
    """Takes one step's news."""
    load = output.load
    if load.num_prompt_tokens or load.num_decode_tokens:
        _steps.observe(load.step_us / 1e6)
        _tokens.labels("prompt").inc(load.num_prompt_tokens)
        _tokens.labels("decode").inc(load.num_decode_tokens)
    _sequences.labels("running").set(load.num_running)
    _sequences.labels("waiting").set(load.num_waiting)
    _sequences.labels("receiving").set(load.num_receiving)
    _waiting_tokens.set(load.num_waiting_tokens)
    _blocks.labels("used").set(load.num_used_blocks)
    _blocks.labels("free").set(load.num_blocks - load.num_used_blocks)
    _preemptions.set(load.num_preemptions)
    removed = sum(event.kind is BlockEventKind.REMOVED for event in output.block_events)
    if removed:
        _evictions.inc(removed)
