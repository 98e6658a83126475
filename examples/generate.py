"""Streams an answer from a running gateway and says how fast it came.

python examples/generate.py "Once upon a time" --max-tokens 50
python examples/generate.py --chat "What is Baton?" --temperature 0
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from baton.client import Chunk, Client, Final, Prompt, Sampling
from baton.errors import BatonError


@dataclass(slots=True)
class Pace:
    """When text came, seen from here."""

    started_at: float
    first_at: float | None = None
    last_at: float = 0.0

    def note(self) -> None:
        """Text has come."""
        self.last_at = time.perf_counter()
        if self.first_at is None:
            self.first_at = self.last_at

    def summary(self, final: Final) -> str:
        """One line: time to first token, tokens per second behind it, and who did the work."""
        workers = sorted({sample.decode_worker_id for sample in final.samples})
        prefills = sorted({sample.timings.prefill_worker_id or "local" for sample in final.samples})
        parts = [f"{final.num_prompt_tokens} + {final.num_output_tokens} tokens"]
        if self.first_at is not None:
            parts.append(f"first after {(self.first_at - self.started_at) * 1000:.0f} ms")
            if self.last_at > self.first_at:
                rate = (final.num_output_tokens - 1) / (self.last_at - self.first_at)
                parts.append(f"then {rate:.1f} tokens/s")
        parts.append(f"prefill {', '.join(prefills)}, decode {', '.join(workers)}")
        return "; ".join(parts)


def main() -> int:
    """Parses the command line and prints the answer; the exit code."""
    arguments = _arguments()
    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
        stop_strings=arguments.stop,
    )
    prompt: Prompt = arguments.prompt
    if arguments.chat:
        prompt = [{"role": "user", "content": arguments.prompt}]
    try:
        with Client(arguments.gateway) as client:
            _print_answer(client, prompt, sampling, arguments.model)
    except BatonError as error:
        print(f"{error.status.reason}: {error.message}", file=sys.stderr)
        return 1
    return 0


def _print_answer(client: Client, prompt: Prompt, sampling: Sampling, model: str) -> None:
    pace = Pace(time.perf_counter())
    with client.generate(prompt, sampling, model=model) as events:
        for event in events:
            match event:
                case Chunk():
                    pace.note()
                    print(event.text, end="", flush=True)
                case Final():
                    print(f"\n[{pace.summary(event)}]", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prompt", help="text to continue, or a question with --chat")
    parser.add_argument("--gateway", default="127.0.0.1:8500", help="address of the gRPC door")
    parser.add_argument("--model", default="", help="name of the model; empty: the only one")
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float, help="0 is greedy; default: the model's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], help="a stop string; repeatable")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
