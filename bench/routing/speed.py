"""What a decision costs: by workers, by blocks known, by length of the prompt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from baton.blocks import KEY_BYTES, BlockKey, KeyChain, root_key
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
NUM_DECISIONS = 50
NUM_ROUNDS = 40
NUM_TRIES = 50
BLOCK_SIZE = 16


def measure(run: Run) -> list[Table]:
    """Two tables."""
    return [_weighing_table(run), _prompts_table(run)]


def _weighing_table(run: Run) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for num_workers in WORKERS:
        run.steps.next(f"decisions over {num_workers} workers")
        us = _best_us(_weighing(num_workers), NUM_DECISIONS)
        rows.append((num_workers, us, 1e6 / us))
    return Table(
        "One decision, without looking up blocks",
        ("workers", "µs", "decisions/s"),
        tuple(rows),
        (
            "half of the workers decode; prompts of 100 to 8,000 tokens, a third of the "
            f"workers caching a part; one thread, best of {NUM_ROUNDS} rounds of {NUM_DECISIONS}",
        ),
    )


def _prompts_table(run: Run) -> Table:
    text = load_text(DEMO_MODEL)
    words = "The quick brown fox jumps over the lazy dog, and the story goes on from there. "
    per_token = len(words) / len(text.encode(words * 10, False)) * 10
    rows: list[tuple[Cell, ...]] = []
    for num_blocks in run.size(BLOCKS, BLOCKS[:1]):
        run.steps.next(f"{num_blocks:,} blocks")
        index = _filled(num_blocks)
        for length in LENGTHS:
            run.steps.next(f"prompts of {length:,} tokens, {num_blocks:,} blocks")
            prompt = (words * 60_000)[: int(per_token * length)]
            tokens = text.encode_packed(prompt, False)
            index.store_all("w1", b"".join(_keys(tokens)))
            before = (
                _best_us(partial(text.encode_packed, prompt, False)),
                _best_us(partial(_keys, tokens)),
            )
            decides = [_best_us(_deciding(count, index, tokens)) for count in WORKERS]
            rows.append((num_blocks, len(tokens), *before, *decides, sum(before) + decides[0]))
    return Table(
        "From a prompt's text to its workers, µs",
        (
            "blocks in the index",
            "tokens",
            "tokenise",
            "hash",
            *(f"decide, {count:,} workers" for count in WORKERS),
            f"all, {WORKERS[0]} workers",
        ),
        tuple(rows),
        (
            "the demo model's tokeniser; blocks of 16 tokens, all of them cached by one of the "
            "workers: a prompt that nobody caches is hashed to its first two blocks only",
            "decide: look up all blocks, then weigh; one worker's load changes before each",
            f"one thread, best of {NUM_TRIES}",
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


def _weighing(num_workers: int) -> Callable[[], object]:
    table, rng = WorkerTable(_views(num_workers)), random.Random(1)
    cached = {f"w{number}": rng.randrange(1, 100) for number in range(0, num_workers, 3)}
    config = RoutingConfig()

    def decide() -> None:
        rng.seed(1)
        for _ in range(NUM_DECISIONS):
            request = RouteRequest(rng.randrange(100, 8000), cached_blocks=cached)
            choose(request, table, config, rng.random())

    return decide


def _filled(num_blocks: int) -> BlockIndex:
    """An index of so many blocks in chains of 64, on 64 workers."""
    index, rng = BlockIndex(), random.Random(2)
    for number in range(num_blocks // 64):
        index.store_all(f"w{number % 64}", rng.randbytes(64 * KEY_BYTES))
    return index


def _deciding(num_workers: int, index: BlockIndex, tokens: TokenIds) -> Callable[[], object]:
    table, rng, config = WorkerTable(_views(num_workers)), random.Random(3), RoutingConfig()
    views = [state.view for state in table.states(Role.DECODE)]
    keys = _keys(tokens)

    def decide() -> None:
        table.put(rng.choice(views))
        request = RouteRequest(len(tokens), cached_blocks=index.match(keys))
        choose(request, table, config, rng.random())

    return decide


def _keys(tokens: TokenIds) -> list[BlockKey]:
    return list(KeyChain(root_key("bench", ""), tokens, BLOCK_SIZE))


def _best_us(part: Callable[[], object], num_in_part: int = 1) -> float:
    best = float("inf")
    for _ in range(NUM_TRIES if num_in_part == 1 else NUM_ROUNDS):
        began = time.perf_counter()
        part()
        best = min(best, time.perf_counter() - began)
    return 1e6 * best / num_in_part
