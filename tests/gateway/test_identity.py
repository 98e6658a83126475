"""What follows from a request's tenant and id, and what the client had hoped for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import AlreadyRunning, InvalidRequest, Overloaded, Superseded
from baton.request import FinishReason
from services.gateway import identity, metrics
from services.gateway.fields import GenerateFields
from services.gateway.types import SloHints
from services.gateway.validation import resolve
from tests.support.fake_gateway import FakeGateway
from tests.support.gateway_world import open_world

TENANTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=6)


@given(TENANTS, st.text(max_size=6), TENANTS, st.text(max_size=6))
def test_two_pairs_of_tenant_and_salt_never_share_a_salt(tenant, salt, other_tenant, other_salt):
    same = identity.cache_salt(tenant, salt) == identity.cache_salt(other_tenant, other_salt)

    assert same == ((tenant, salt) == (other_tenant, other_salt))


def test_a_salt_cannot_be_written_so_that_it_is_a_tenants():
    assert identity.cache_salt("acme", "x") != identity.cache_salt("", "acme\x1fx")
    assert identity.cache_salt("", "plain") == "plain"


def test_the_seed_of_a_request_is_promised():
    assert identity.seed("acme", "order-7") == 2459094507675642
    assert identity.seed("", "order-7") != identity.seed("acme", "order-7")


async def test_the_same_request_draws_the_same_seed_unless_one_is_given(toy_text):
    gateway = FakeGateway(toy_text)

    async def seed(**fields):
        return (await resolve(gateway, GenerateFields(text="Hello", **fields))).sampling.seed

    assert await seed(tenant="a", retry_key="r") == identity.seed("a", "r")
    assert await seed(tenant="a", retry_key="r", seed=5) == 5
    assert await seed(request_id="r") != await seed(request_id="r")


@pytest.mark.parametrize(
    ("fields", "name", "limit"),
    [
        ({"tenant": "x" * 129}, "tenant", "128"),
        ({"tenant": "two words"}, "tenant", "ASCII"),
        ({"slo": SloHints(target_ttft_ms=3_600_001)}, "slo.target_ttft_ms", "3.6e+06"),
        ({"slo": SloHints(target_itl_ms=60_001)}, "slo.target_itl_ms", "60000"),
        ({"slo": SloHints(expected_output_count=2**32 - 1)}, "slo.expected_output_count", "1e+06"),
    ],
)
async def test_hints_out_of_range_are_refused(toy_text, fields, name, limit):
    with pytest.raises(InvalidRequest, match=limit.replace("+", r"\+")) as failure:
        await resolve(FakeGateway(toy_text), GenerateFields(text="Hello", **fields))

    assert failure.value.field == name


async def test_a_retry_takes_over_from_the_call_that_still_runs(world):
    worker = await world.add()
    first = world.start(retry_key="r")
    abandoned = await worker.submitted()
    second = world.start(retry_key="r")
    await (await worker.submitted(2)).send(world.ids("fox"), end=FinishReason.LENGTH)

    assert isinstance((await first).error, Superseded)
    assert (await second).text() == "fox"
    await worker.cancelled(abandoned)


async def test_a_retry_takes_its_predecessors_place_when_the_gateway_is_full(model_folder):
    async with open_world(model_folder, max_requests=1) as world:
        worker = await world.add()
        first = world.start(retry_key="r")
        await worker.submitted()
        other = await world.ask()
        second = world.start(retry_key="r")
        await (await worker.submitted(2)).send(end=FinishReason.LENGTH)

        assert isinstance(other.error, Overloaded)
        assert isinstance((await first).error, Superseded)
        assert (await second).finals


@pytest.mark.parametrize("change", [{"prompt": "Another"}, {"tenant": "other"}, {"retry_key": ""}])
async def test_only_the_same_request_of_the_same_tenant_takes_over(world, change):
    worker = await world.add()
    first = world.start(retry_key="r")
    running = await worker.submitted()
    second = world.start(**{"retry_key": "r", **change})
    if "prompt" in change:
        error = (await second).error
        assert isinstance(error, AlreadyRunning)
        assert (error.field, "'r'" in error.message) == ("request_id", True)
    else:
        await (await worker.submitted(2)).send(end=FinishReason.LENGTH)
        assert (await second).finals
    await running.send(end=FinishReason.LENGTH)

    assert (await first).finals


async def test_a_retry_takes_over_while_no_worker_has_come(world):
    first = world.start(retry_key="r")
    await asyncio.sleep(0)
    second = world.start(retry_key="r")
    await asyncio.sleep(0)
    worker = await world.add()
    worker.script = lambda submission, sample: world.ids("fox")
    worker.gate.set()

    assert isinstance((await first).error, Superseded)
    assert (await second).finals


async def test_targets_are_judged_in_the_final_and_counted(world):
    worker = await world.add()
    worker.script = lambda submission, sample: world.ids("the quick fox")
    met = metrics.slo_requests.labels("ttft", "yes")._value.get()

    easy = await world.ask(slo=SloHints(target_ttft_ms=60_000, target_itl_ms=60_000))
    silent = await world.ask()
    await world.core.drained()

    assert (easy.final.ttft_met, easy.final.itl_met) == (True, True)
    assert easy.final.mean_itl_us > 0
    assert (silent.final.ttft_met, silent.final.itl_met) == (None, None)
    assert metrics.slo_requests.labels("ttft", "yes")._value.get() == met + 1


async def test_a_missed_target_is_no_error(world):
    worker = await world.add()
    asking = world.start(slo=SloHints(target_ttft_ms=1, target_itl_ms=1))
    submission = await worker.submitted()
    await asyncio.sleep(0.01)
    await submission.send(world.ids("the"))
    await asyncio.sleep(0.01)
    await submission.send(world.ids(" fox"), end=FinishReason.LENGTH)

    assert ((await asking).final.ttft_met, (await asking).final.itl_met) == (False, False)
