"""What an engine refuses: specs it can never run and resumes that contradict its state."""

from __future__ import annotations

from baton.engine.sequence import Sequence, SequenceState
from baton.engine.types import EngineConfig, NewToken, SequenceSpec
from baton.errors import InvalidRequest
from baton.tokens import TokenIds


def check_spec(spec: SequenceSpec, config: EngineConfig, vocab_size: int) -> None:
    """Raises `InvalidRequest` if this engine can never run the sequence."""
    num_known = len(spec.token_ids)
    _require(num_known > 0, "token_ids", "a sequence needs at least 1 token, not 0")
    _require(
        1 <= spec.prompt_len <= num_known,
        "prompt_len",
        f"prompt_len {spec.prompt_len} is not between 1 and the {num_known} known tokens",
    )
    limit = config.context_len
    _require(
        spec.prompt_len < limit and num_known <= limit,
        "token_ids",
        f"{num_known} tokens, {spec.prompt_len} of them prompt, leave no room below {limit}",
    )
    num_blocks = -(-num_known // config.block_size)
    _require(
        num_blocks <= config.num_blocks,
        "token_ids",
        f"{num_known} tokens need {num_blocks} blocks, the engine has {config.num_blocks}",
    )
    _check_vocabulary(spec, vocab_size)


def check_resume(
    sequence: Sequence, num_computed: int, token: NewToken | None, vocab_size: int
) -> None:
    """Raises `InvalidRequest` if a resume contradicts what the sequence is and has."""
    name = sequence.sequence_id
    _require(
        sequence.state is SequenceState.RECEIVING,
        "sequence_id",
        f"sequence {name} is {sequence.state.name.lower()}, not receiving",
    )
    least = sequence.num_computed
    _require(
        least <= num_computed <= sequence.num_known,
        "num_computed",
        f"{num_computed} computed tokens of sequence {name} are not between the {least} cached"
        f" and the {sequence.num_known} known ones",
    )
    if token is not None:
        _require(
            num_computed == sequence.num_known,
            "num_computed",
            f"sequence {name} got a token at {num_computed} of {sequence.num_known} known tokens",
        )
        _require(
            0 <= token.token_id < vocab_size,
            "token",
            f"token id {token.token_id} is outside the vocabulary of {vocab_size}",
        )
        matcher = sequence.spec.matcher
        _require(
            matcher is None or matcher.allows(token.token_id),
            "token",
            f"token id {token.token_id} is none that the guide of sequence {name} allows",
        )


def _check_vocabulary(spec: SequenceSpec, vocab_size: int) -> None:
    if isinstance(spec.token_ids, TokenIds):
        lowest, highest = 0, spec.token_ids.highest
    else:
        lowest, highest = min(spec.token_ids), max(spec.token_ids)
    outside = lowest if lowest < 0 else highest
    _require(
        0 <= outside < vocab_size,
        "token_ids",
        f"token id {outside} is outside the vocabulary of {vocab_size}",
    )
    for token_id in spec.sampling.logit_bias:
        _require(
            0 <= token_id < vocab_size,
            "logit_bias",
            f"token id {token_id} is outside the vocabulary of {vocab_size}",
        )


def _require(holds: bool, field: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(message, field=field)
