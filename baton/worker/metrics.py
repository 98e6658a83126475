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


# A label's lookup costs more than its count, and this runs at every step.
_prompt_tokens, _decode_tokens = _tokens.labels("prompt"), _tokens.labels("decode")
_running, _waiting = _sequences.labels("running"), _sequences.labels("waiting")
_receiving = _sequences.labels("receiving")
_used, _free = _blocks.labels("used"), _blocks.labels("free")


def observe(output: StepOutput) -> None:
    """Takes one step's news."""
    load = output.load
    if load.num_prompt_tokens or load.num_decode_tokens:
        _steps.observe(load.step_us / 1e6)
        _prompt_tokens.inc(load.num_prompt_tokens)
        _decode_tokens.inc(load.num_decode_tokens)
    _running.set(load.num_running)
    _waiting.set(load.num_waiting)
    _receiving.set(load.num_receiving)
    _waiting_tokens.set(load.num_waiting_tokens)
    _used.set(load.num_used_blocks)
    _free.set(load.num_blocks - load.num_used_blocks)
    _preemptions.set(load.num_preemptions)
    removed = sum(event.kind is BlockEventKind.REMOVED for event in output.block_events)
    if removed:
        _evictions.inc(removed)
