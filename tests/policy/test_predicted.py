"""What a worker without events is taken to cache, against a list of what was routed to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from baton.blocks import BlockKey
from baton.policy.index import BlockIndex
from baton.policy.predicted import PredictedCaches

TTL_S = 10.0
CHAINS = {name: [f"{name}{at}".encode().rjust(16) for at in range(6)] for name in "abc"}
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(0, 8)), max_size=30
)


def chain(name: str, length: int) -> list[BlockKey]:
    """The first blocks of a made-up prompt."""
    return [BlockKey(key) for key in CHAINS[name][:length]]


@given(STEPS, st.integers(1, 12))
def test_blocks_stay_until_they_are_old_or_others_need_the_room(
    steps: list[tuple[str, int, int]], max_blocks: int
) -> None:
    index = BlockIndex()
    caches = PredictedCaches(index, TTL_S)
    used: list[tuple[bytes, float]] = []  # least recently used first
    now = 0.0
    for name, length, pause in steps:
        now += pause
        caches.expire(now)
        used = [(key, at) for key, at in used if at + TTL_S > now]

        caches.routed("w", chain(name, length), max_blocks, now)
        fresh = chain(name, length)[::-1]
        used = [(key, at) for key, at in used if key not in fresh] + [(key, now) for key in fresh]
        used = used[max(0, len(used) - max_blocks) :]

        held = {key for keys in CHAINS.values() for key in keys if index.holds("w", BlockKey(key))}
        assert held == {key for key, _ in used}
        assert index.num_blocks("w") == len(used)


def test_a_prompt_that_came_before_is_expected_where_it_went() -> None:
    index = BlockIndex()
    caches = PredictedCaches(index, TTL_S)

    caches.routed("w", chain("a", 4), 100, now=0.0)
    assert index.match(chain("a", 6)) == {"w": 4}
    caches.expire(now=9.0)
    assert index.match(chain("a", 6)) == {"w": 4}
    caches.expire(now=10.0)
    assert index.match(chain("a", 6)) == {}


def test_a_small_cache_keeps_the_beginnings_of_chains() -> None:
    index = BlockIndex()
    caches = PredictedCaches(index, TTL_S)

    caches.routed("w", chain("a", 6), 4, now=0.0)

    assert index.match(chain("a", 6)) == {"w": 4}


def test_a_worker_that_goes_leaves_nothing_and_others_alone() -> None:
    index = BlockIndex()
    caches = PredictedCaches(index, TTL_S)
    index.store("announces", chain("a", 1)[0])
    caches.routed("w", chain("a", 2), 0, now=0.0)

    caches.forget("w")
    caches.forget("announces")

    assert index.match(chain("a", 2)) == {"announces": 1}
