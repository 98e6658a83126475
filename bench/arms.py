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
_REMOTE, _LOCAL = PrefillMode.REMOTE.value, PrefillMode.LOCAL.value


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of the comparison, running."""

    system: System
    client: GatewayClient
    prefill_mode: int
    """Where its prompts must have been computed."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.system.spec.title


def arm_specs() -> list[tuple[SystemSpec, int]]:
    """The systems compared, each with the mode its prompts are computed in."""
    local = ("--remote-prefill=false",)
    small = {"gateway": local, "decode": (f"--max-batch-tokens={SMALL_CHUNK}",)}
    whole = total_threads()
    return [
        (SystemSpec("disaggregated", 1, worker_threads()), _REMOTE),
        (SystemSpec("one engine", 0, whole, {"gateway": local}), _LOCAL),
        (SystemSpec(f"one engine, chunks of {SMALL_CHUNK}", 0, whole, small), _LOCAL),
    ]


def require_modes(arm: Arm, replies: Sequence[Reply]) -> None:
    """Raises `BenchFailed` where a prompt was not computed where this arm has it computed."""
    wrong = [reply for reply in replies if reply.timings.prefill_mode != arm.prefill_mode]
    if wrong:
        mode = PrefillMode(wrong[0].timings.prefill_mode).name
        raise BenchFailed(
            f"{arm.title}: {len(wrong)} of {len(replies)} prompts were computed in mode {mode}, "
            f"{PrefillMode(arm.prefill_mode).name} was expected."
        )
