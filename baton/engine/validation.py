"""What an engine refuses: specs it can never run and resumes that contradict its state."""

from __future__ import annotations

from baton.engine.sequence import Sequence, SequenceState
from baton.engine.types import EngineConfig, NewToken, SequenceSpec
from baton.errors import InvalidRequest
from baton.tokens import TokenIds


def check_spec(spec: SequenceSpec, config: EngineConfig, vocab_size: int) -> None:
    """Raises `InvalidRequest` if this engine can never run the sequence."""
    num_known, limit = len(spec.token_ids), config.context_len
    if num_known == 0:
        raise InvalidRequest("a sequence needs at least 1 token, not 0", field="token_ids")
    if not 1 <= spec.prompt_len <= num_known:
        raise InvalidRequest(
            f"prompt_len {spec.prompt_len} is not between 1 and the {num_known} known tokens",
            field="prompt_len",
        )
    if spec.prompt_len >= limit or num_known > limit:
        raise InvalidRequest(
            f"{num_known} tokens, {spec.prompt_len} of them prompt, leave no room below {limit}",
            field="token_ids",
        )
    num_blocks = -(-num_known // config.block_size)
    if num_blocks > config.num_blocks:
        raise InvalidRequest(
            f"{num_known} tokens need {num_blocks} blocks, the engine has {config.num_blocks}",
            field="token_ids",
        )
    if isinstance(spec.token_ids, TokenIds):
        lowest, highest = 0, spec.token_ids.highest
    else:
        lowest, highest = min(spec.token_ids), max(spec.token_ids)
    _check_in_vocabulary(lowest if lowest < 0 else highest, vocab_size, "token_ids")
    for token_id in spec.sampling.logit_bias:
        _check_in_vocabulary(token_id, vocab_size, "logit_bias")


def check_resume(
    sequence: Sequence, num_computed: int, token: NewToken | None, vocab_size: int
) -> None:
    """Raises `InvalidRequest` if a resume contradicts what the sequence is and has."""
    name = sequence.sequence_id
    if sequence.state is not SequenceState.RECEIVING:
        raise InvalidRequest(
            f"sequence {name} is {sequence.state.name.lower()}, not receiving", field="sequence_id"
        )
    if not sequence.num_computed <= num_computed <= sequence.num_known:
        raise InvalidRequest(
            f"{num_computed} computed tokens of sequence {name} are not between the"
            f" {sequence.num_computed} cached and the {sequence.num_known} known ones",
            field="num_computed",
        )
    if token is None:
        return
    if num_computed != sequence.num_known:
        raise InvalidRequest(
            f"sequence {name} got a token at {num_computed} of {sequence.num_known} known tokens",
            field="num_computed",
        )
    _check_in_vocabulary(token.token_id, vocab_size, "token")
    matcher = sequence.spec.matcher
    if matcher is not None and not matcher.allows(token.token_id):
        raise InvalidRequest(
            f"token id {token.token_id} is none that the guide of sequence {name} allows",
            field="token",
        )


def _check_in_vocabulary(token_id: int, vocab_size: int, field: str) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"token id {token_id} is outside the vocabulary of {vocab_size}", field=field
        )
