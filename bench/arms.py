"""The systems that are compared: same model, same cores, other places for the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.request import PrefillMode
from bench.client import GatewayClient, Reply
from bench.failure import BenchFailed
from bench.options import total_threads, worker_threads
from bench.system import System, SystemSpec

SMALL_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of the comparison, running."""

    system: System
    client: GatewayClient
    mode: PrefillMode
    """Where its prompts must have been computed."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.system.spec.title

    def require_modes(self, replies: Sequence[Reply]) -> None:
        """Raises `BenchFailed` where a prompt was not computed where this arm has it computed."""
        wrong = [reply for reply in replies if reply.timings.prefill_mode != self.mode.value]
        if wrong:
            found = PrefillMode(wrong[0].timings.prefill_mode).name
            raise BenchFailed(
                f"{self.title}: {len(wrong)} of {len(replies)} prompts were computed in mode "
                f"{found}, {self.mode.name} was expected."
            )


def arm_specs() -> list[tuple[SystemSpec, PrefillMode]]:
    """The systems compared, each with the mode its prompts are computed in."""
    local = ("--no-remote-prefill",)
    # Idle workers would compute short prompts where no hand-off is needed: here it is measured.
    remote = {"gateway": ("--remote-prefill-tokens=64",)}
    small = {"gateway": local, "decode": (f"--max-batch-tokens={SMALL_CHUNK}",)}
    whole = total_threads()
    return [
        (SystemSpec("disaggregated", 1, worker_threads(), remote), PrefillMode.REMOTE),
        (SystemSpec("one engine", 0, whole, {"gateway": local}), PrefillMode.LOCAL),
        (SystemSpec(f"one engine, chunks of {SMALL_CHUNK}", 0, whole, small), PrefillMode.LOCAL),
    ]
