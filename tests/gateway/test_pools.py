"""How much of the workers a gateway uses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baton.policy.admission import Pool
from baton.policy.learned import Learned
from baton.policy.stepmodel import StepModel
from baton.registry.records import LoadRecord
from services.gateway.pools import NUM_LOOKS, FleetPools
from tests.support.gateway_world import MODEL, open_world, prefill_record

STEPS = StepModel(prompt_step_us=0.0, prompt_token_us=100.0, num_steps=10)
"""10,000 tokens a second."""


async def test_a_pool_is_what_its_workers_take_and_compute(model_folder):
    async with open_world(model_folder) as world:
        await world.add()
        world.directory.up(prefill_record("prefill-0"))
        world.directory.loads["decode-0"] = LoadRecord(
            learned=Learned(steps=STEPS, max_batch_tokens=256, max_sequences=32)
        )
        pool = FleetPools(world.fleet, world.board)(MODEL, 0, 0.0)

        assert (pool.num_workers, pool.num_sequences) == (2, 36)
        # 0.4 s of the one, two steps of the other that has learnt nothing.
        assert pool.num_tokens == 4000 + 1024
        assert pool.tokens_per_s == pytest.approx(10_000)
        short = FleetPools(world.fleet, world.board, 5, target_ttft_s=0.5)(MODEL, 0, 0.0)
        assert (short.num_sequences, short.num_tokens) == (5, 2000 + 1024)


async def test_what_other_gateways_have_in_flight_is_left_to_them(model_folder):
    async with open_world(model_folder) as world:
        await world.add()
        pools = FleetPools(world.fleet, world.board, 10)
        load = LoadRecord(num_running=6)
        world.directory.loads["decode-0"] = load
        world.board.book("decode-0", 300)

        # This gateway's own 2 sequences and 100 tokens are among those reported and booked.
        for _ in range(NUM_LOOKS):
            pool = pools(MODEL, 2, 100.0)
        assert (pool.num_sequences, pool.num_tokens) == (10 - 4, 1024 - 200)
        # A report that is a little old counts nobody twice.
        assert pools(MODEL, 6, 300.0).num_sequences == 10
        world.directory.loads["decode-0"] = replace(load, num_running=100)
        for _ in range(NUM_LOOKS):
            pool = pools(MODEL, 0, 0.0)
        assert pool.num_sequences == 1


async def test_without_workers_it_is_the_pool_of_one_that_may_come(model_folder):
    async with open_world(model_folder) as world:
        assert FleetPools(world.fleet, world.board)(MODEL, 0, 0.0) == Pool()
