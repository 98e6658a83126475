"""The random generator against published answers and a second writing in plain integers."""

from __future__ import annotations

import math
import random

import pytest
import torch

from kernels.sample.philox import gumbel_, philox

# Counter, key and answer: `philox4x32 10` in Random123's kat_vectors.
KNOWN = (
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def _run(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    a, b, c, d = (torch.tensor([word]) for word in counter)
    words = philox((a, b, c, d), (torch.tensor(key[0]), torch.tensor(key[1])))
    return tuple(int(word) for word in words)


def _plain(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (second >> 32) ^ b ^ k,
            second & 0xFFFFFFFF,
            (first >> 32) ^ d ^ m,
            first & 0xFFFFFFFF,
        )
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert _run(counter, key) == answer
    assert _plain(counter, key) == answer


def test_random_counters_and_keys_in_one_tensor() -> None:
    source = random.Random(1)
    counters = [tuple(source.getrandbits(32) for _ in range(4)) for _ in range(200)]
    keys = [tuple(source.getrandbits(32) for _ in range(2)) for _ in range(200)]

    a, b, c, d = torch.tensor(counters).unbind(1)
    k, m = torch.tensor(keys).unbind(1)
    words = torch.stack(philox((a, b, c, d), (k, m)), dim=1).tolist()

    assert [tuple(row) for row in words] == [
        _plain(counter, key) for counter, key in zip(counters, keys, strict=True)
    ]


def test_the_counter_is_not_written() -> None:
    counter = tuple(torch.full((3,), value) for value in (1, 2, 3, 4))

    philox(counter, (torch.tensor(5), torch.tensor(6)))

    assert [word.tolist() for word in counter] == [[1] * 3, [2] * 3, [3] * 3, [4] * 3]


def test_noise_is_finite_for_every_word() -> None:
    extremes = torch.tensor([0, 1, 2**31, 2**32 - 129, 2**32 - 128, 2**32 - 1]).float()

    noise = gumbel_(extremes)

    assert noise.isfinite().all()
    assert noise[0] == pytest.approx(-math.log(0.5 * 2**-32), rel=1e-6)
    assert (noise.diff() <= 0).all()  # a larger word is a smaller noise


def test_noise_has_the_moments_of_a_gumbel_variable() -> None:
    groups = torch.arange(100_000)
    zero = torch.zeros_like(groups)

    words = torch.stack(philox((zero, zero, groups, zero), (zero[:1] + 7, zero[:1])))
    noise = gumbel_(words.float())

    # Mean: Euler's constant; variance: pi squared over 6. Five standard errors of 400,000 draws.
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
