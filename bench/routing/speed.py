"""What a decision costs: by workers, by blocks known, by length of the prompt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from baton.blocks import KEY_BYTES, BlockKey, KeyChain, root_key, split_keys
from baton.cli.topology import DEMO_MODEL
from baton.policy.index import BlockIndex
from baton.policy.learned import Learned, Road
from baton.policy.routing import choose
from baton.policy.table import WorkerTable
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerView
from baton.request import Role
from baton.text import load_text
from baton.tokens import TokenIds
from bench.options import Run
from bench.report import Cell, Table

WORKERS = (8, 128, 1024)
BLOCKS = (1_000_000, 10_000_000)
LENGTHS = (128, 2048, 16_384, 60_000)
NUM_DECISIONS = 400
NUM_ROUNDS = 5
BLOCK_SIZE = 16


def measure(run: Run) -> list[Table]:
    """Two tables."""
    return [_decisions(run), _prompts(run)]


def _decisions(run: Run) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for num_workers in WORKERS:
        table = WorkerTable(_views(num_workers))
        run.steps.next(f"decisions over {num_workers} workers")
        rows.append((num_workers, "weigh", None, *_costs(_weighing(table, num_workers))))
    for num_blocks in run.size(BLOCKS, BLOCKS[:1]):
        index, chains = _filled(num_blocks)
        for num_workers in WORKERS:
            run.steps.next(f"decisions over {num_workers} workers and {num_blocks:,} blocks")
            table = WorkerTable(_views(num_workers))
            decide = _deciding(table, index, chains)
            rows.append((num_workers, "look up and weigh", num_blocks, *_costs(decide)))
    return Table(
        "One decision",
        ("workers", "what", "blocks in the index", "µs", "decisions/s"),
        tuple(rows),
        (
            "half of the workers are decode workers; one thread, in a tight loop, best of "
            f"{NUM_ROUNDS} rounds of {NUM_DECISIONS}",
            "weigh: prompts of 100 to 8,000 tokens, a third of the workers caching a part",
            "look up and weigh: chains of 64 blocks of 16 tokens, some of them cached, on 64 of "
            "the workers at most; one worker's load changes before each decision",
        ),
    )


def _views(num_workers: int) -> list[WorkerView]:
    rng = random.Random(num_workers)
    return [
        WorkerView(
            f"w{number}",
            Role.DECODE if number % 2 else Role.PREFILL,
            block_bytes=1 << 20,
            num_blocks=20_000,
            num_running=rng.randrange(30),
            num_queued_tokens=rng.choice([0, rng.randrange(4000)]),
            num_used_blocks=rng.randrange(5000),
            learned=Learned(itl_us=8000.0, common=Road(1500.0, 20_000.0)),
        )
        for number in range(num_workers)
    ]


def _weighing(table: WorkerTable, num_workers: int) -> Callable[[random.Random], None]:
    rng = random.Random(1)
    cached = {f"w{number}": rng.randrange(1, 100) for number in range(0, num_workers, 3)}
    config = RoutingConfig()

    def decide(rng: random.Random) -> None:
        request = RouteRequest(rng.randrange(100, 8000), cached_blocks=cached)
        choose(request, table, config, rng.random())

    return decide


def _filled(num_blocks: int) -> tuple[BlockIndex, list[list[BlockKey]]]:
    """An index of so many blocks in chains of 64, and some of the chains."""
    index = BlockIndex()
    chains: list[list[BlockKey]] = []
    rng = random.Random(2)
    for number in range(num_blocks // 64):
        keys = split_keys(rng.randbytes(64 * KEY_BYTES))
        index.store_all(f"w{number % 64}", b"".join(keys))
        if number % (num_blocks // 64 // 50) == 0:
            chains.append(list(keys))
    return index, chains


def _deciding(
    table: WorkerTable, index: BlockIndex, chains: list[list[BlockKey]]
) -> Callable[[random.Random], None]:
    config = RoutingConfig()
    views = [state.view for state in table.states(Role.DECODE)]

    def decide(rng: random.Random) -> None:
        table.put(rng.choice(views))
        request = RouteRequest(1100, cached_blocks=index.match(rng.choice(chains)))
        choose(request, table, config, rng.random())

    return decide


def _costs(decide: Callable[[random.Random], None]) -> tuple[float, float]:
    """(microseconds, decisions per second)."""
    best = float("inf")
    for number in range(NUM_ROUNDS):
        rng = random.Random(number)
        began = time.perf_counter()
        for _ in range(NUM_DECISIONS):
            decide(rng)
        best = min(best, time.perf_counter() - began)
    return 1e6 * best / NUM_DECISIONS, NUM_DECISIONS / best


def _prompts(run: Run) -> Table:
    text = load_text(DEMO_MODEL)
    words = "The quick brown fox jumps over the lazy dog, and the story goes on from there. "
    table = WorkerTable(_views(8))
    index = BlockIndex()
    config = RoutingConfig()
    rows: list[tuple[Cell, ...]] = []
    for length in LENGTHS:
        run.steps.next(f"a prompt of {length:,} tokens")
        per_token = len(words) / len(text.encode(words * 10, False)) * 10
        prompt = (words * 60_000)[: int(per_token * length)]
        tokens = text.encode_packed(prompt, False)
        known = list(KeyChain(root_key("bench", ""), tokens, BLOCK_SIZE))
        index.store_all("w1", b"".join(known))
        parts = (
            lambda p=prompt: text.encode_packed(p, False),
            lambda t=tokens: _keys(t),
            lambda t=tokens, k=known: choose(
                RouteRequest(len(t), cached_blocks=index.match(k)), table, config, 0.5
            ),
        )
        costs = [_best_us(part) for part in parts]
        rows.append((len(tokens), *costs, sum(costs)))
    return Table(
        "From a prompt's text to its workers",
        ("tokens", "tokenise µs", "hash µs", "look up and weigh µs", "all µs"),
        tuple(rows),
        (
            "the demo model's tokeniser; blocks of 16 tokens, all of them cached by one of 8 "
            "workers: a prompt that nobody caches is hashed to its first block only",
        ),
    )


def _keys(tokens: TokenIds) -> list[BlockKey]:
    return list(KeyChain(root_key("bench", ""), tokens, BLOCK_SIZE))


def _best_us(part: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(15):
        began = time.perf_counter()
        part()
        best = min(best, time.perf_counter() - began)
    return 1e6 * best
