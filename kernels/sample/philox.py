"""Philox 4x32-10, a counter-based generator (Salmon et al., 2011), in exact integer tensor ops."""

from __future__ import annotations

from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Four random words for each counter, all of one shape. Words are int64 in 0..2**32-1."""
    word_0, word_1, word_2, word_3 = counter
    key_0, key_1 = key
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(word_0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(word_2, _MULTIPLIERS[1])
        word_0, word_1 = high_1.bitwise_xor_(word_1).bitwise_xor_(key_0), low_1
        word_2, word_3 = high_0.bitwise_xor_(word_3).bitwise_xor_(key_1), low_0
        key_0, key_1 = (key_0 + _WEYL[0]) & _WORD, (key_1 + _WEYL[1]) & _WORD
    return word_0, word_1, word_2, word_3


def gumbel_(words: Tensor) -> Tensor:
    """Turns random words in float32 into standard Gumbel noise, in place.

    A word w stands for the share v = (w + 0.5) / 2**32 of the exponential's upper tail: the large
    values that win a draw come from small v, where float32 is finest.
    """
    share = words.add_(0.5).mul_(2.0**-32)
    share.clamp_(max=1.0 - 2.0**-24)  # a share that rounds to 1 would give -inf
    return share.neg_().log1p_().neg_().log_().neg_()


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low words of a product. The product wraps as int64, which keeps all its 64 bits."""
    product = word * multiplier
    return (product >> 32).bitwise_and_(_WORD), product.bitwise_and_(_WORD)
