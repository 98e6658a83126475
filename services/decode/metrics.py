"""What a decode worker counts."""

from __future__ import annotations

from baton.rpc.metrics import counter, gauge, histogram

handoffs = counter(
    "handoffs_total", "Hand-offs by transport and outcome.", ("transport", "outcome")
)
handoff_bytes = counter("handoff_bytes_total", "Bytes of blocks handed off.", ("transport",))
pushed_seconds = counter(
    "handoff_push_seconds_total",
    "Seconds of pushing; hidden: while prefill still computed.",
    ("part",),
)
quarantines = counter("quarantines_total", "Hand-offs whose blocks had to be set apart.")
sequences = counter("sequences_total", "Sequences ended, by finish reason.", ("reason",))
running = gauge("running_sequences", "Sequences that have not ended.")
first_token_seconds = histogram(
    "first_token_seconds", "From submission to the first token.", ("mode",)
)
