"""What an echo engine answers, by definition, and small engines that do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from baton.blocks import KvLayout, make_namespace
from baton.engine.arena import HostArena
from baton.engine.echo import EchoRunner
from baton.engine.engine import Engine
from baton.engine.types import EngineConfig, SequenceSpec
from baton.request import FinishReason

VOCAB_SIZE = 64
EOS_IDS = frozenset({1, 2})


def echo_of(
    prompt: Sequence[int], num_tokens: int, eos_ids: Collection[int] = EOS_IDS
) -> list[int]:
    """The first tokens of an answer that nothing stops."""
    if all(token_id in eos_ids for token_id in prompt):
        return [next(i for i in range(VOCAB_SIZE) if i not in eos_ids)] * num_tokens
    answer = []
    for index in range(num_tokens):
        at = index % len(prompt)
        while prompt[at] in eos_ids:
            at = (at + 1) % len(prompt)
        answer.append(prompt[at])
    return answer


def echo_end(spec: SequenceSpec, context_len: int) -> tuple[list[int], FinishReason]:
    """All tokens that an engine draws behind a spec's known ones, and why it ends."""
    prompt, num_known = spec.token_ids[: spec.prompt_len], len(spec.token_ids)
    sampling = spec.sampling
    num_output = min(sampling.max_tokens, context_len - spec.prompt_len)
    drawn = echo_of(prompt, num_output)[num_known - spec.prompt_len :]
    for index, token_id in enumerate(drawn):
        is_late = num_known - spec.prompt_len + index >= sampling.min_tokens
        if token_id in sampling.stop_token_ids and is_late:
            return drawn[: index + 1], FinishReason.STOP
    return drawn, FinishReason.LENGTH


def make_echo_engine(layout: KvLayout | None = None, **sizes: int) -> Engine:
    """An engine over blocks that nobody has written; `sizes` are fields of `EngineConfig`."""
    config = EngineConfig(
        **{"num_blocks": 64, "block_size": 4, "max_batch_tokens": 16, "context_len": 256, **sizes}
    )
    layout = layout or KvLayout(config.block_size, 1, 1, 1, "float32", make_namespace("echo"))
    arena = HostArena(layout, config.num_blocks)
    arena.memory[:] = b"\xa5" * arena.memory.nbytes
    return Engine(EchoRunner(arena, VOCAB_SIZE, EOS_IDS), config, arena)
