"""Requests that wait for room: their order, their ends, and who is shed for whom."""

from __future__ import annotations

import asyncio
import threading

import pytest

from baton.errors import DeadlineExceeded, Overloaded
from baton.request import FinishReason
from baton.tokens import TokenIds
from services.gateway.admission import AdmissionSettings
from services.gateway.core import MAX_LONG_TEXTS
from services.gateway.tenants import TenantEntry, Tenants, TenantsFile
from services.gateway.types import Visitor
from tests.support.fake_decode import eventually
from tests.support.gateway_world import open_world


async def finish(world, submission) -> None:
    """The worker answers."""
    await submission.send(world.ids("the"), end=FinishReason.LENGTH)


async def hold(world, count, **changes) -> list[asyncio.Task]:
    """So many requests that wait, in this order."""
    tasks = []
    for number in range(count):
        before = world.admission.num_waiting
        tasks.append(world.start(**{"request_id": f"held-{number}", **changes}))
        await eventually(lambda before=before: world.admission.num_waiting == before + 1)
    return tasks


async def order_of(world, worker, tasks, first) -> list[str]:
    """Ends one after the other what the worker has; returns the ids in the order of arrival."""
    seen = []
    for number in range(first, first + len(tasks)):
        await finish(world, worker.submissions[number - 1])
        submission = await worker.submitted(number + 1)
        seen.append(submission.request_id)
    await finish(world, worker.submissions[-1])
    await asyncio.gather(*tasks)
    return seen


async def test_no_more_than_the_slots_reach_a_worker_and_each_end_lets_one_in(model_folder):
    async with open_world(model_folder, slots=2) as world:
        worker = await world.add()
        running = [world.start(), world.start()]
        await worker.submitted(2)
        held = await hold(world, 2)

        assert len(worker.submissions) == 2
        for number in range(2):
            await finish(world, worker.submissions[number])
            await worker.submitted(3 + number)
        for submission in worker.submissions[2:]:
            await finish(world, submission)

        assert [(await task).text() for task in running + held] == ["the"] * 4
        assert world.admission.num_waiting == 0


async def test_tenants_take_turns_whatever_one_of_them_has_in_line(model_folder):
    async with open_world(model_folder, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        many = await hold(world, 6, tenant="ann")
        few = await hold(world, 2, tenant="ben", request_id="ben")

        seen = await order_of(world, worker, many + few, 1)
        await running

        assert "ben" in seen[:2]
        assert seen[:4].count("ben") == 2


async def test_weights_are_shares(model_folder):
    tenants = Tenants(TenantsFile(tenants={"ann": TenantEntry(weight=3)}))
    async with open_world(model_folder, slots=1, tenants=tenants) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        held = await hold(world, 12, tenant="ann", request_id="ann")
        held += await hold(world, 12, tenant="ben", request_id="ben")

        seen = await order_of(world, worker, held, 1)
        await running

        assert 8 <= seen[:12].count("ann") <= 10


async def test_a_higher_priority_overtakes_and_a_tenants_limit_holds(model_folder):
    tenants = Tenants(TenantsFile(tenants={"low": TenantEntry(max_priority=0)}))
    async with open_world(model_folder, slots=1, tenants=tenants) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        held = await hold(world, 2, request_id="plain")
        held += await hold(world, 1, request_id="urgent", priority=5)
        seen = await order_of(world, worker, held, 1)
        await running

        assert seen == ["urgent", "plain", "plain"]
        assert world.core.welcome("toy", Visitor("low", priority=5)).priority == 0
        assert world.core.welcome("toy", Visitor("other", priority=5)).priority == 5


async def test_a_client_that_leaves_while_it_waits_leaves_the_line_at_once(model_folder):
    async with open_world(model_folder, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        (held,) = await hold(world, 1)

        held.cancel()
        await asyncio.wait([held])

        assert world.admission.num_waiting == 0
        assert world.core.num_requests == 1
        await finish(world, worker.submissions[0])
        await running
        assert len(worker.submissions) == 1


async def test_a_deadline_that_comes_while_a_request_waits_ends_it(model_folder):
    async with open_world(model_folder, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()

        answer = await world.ask(timeout_s=0.2)

        answer.assert_ended_exactly_once()
        assert isinstance(answer.error, DeadlineExceeded)
        assert len(worker.submissions) == 1
        assert world.admission.num_waiting == 0
        running.cancel()


async def test_what_has_waited_too_long_is_shed_and_nothing_reaches_a_worker(model_folder):
    settings = AdmissionSettings(target_ttft_s=0.3)
    async with open_world(model_folder, admission=settings, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()

        answer = await world.ask()

        assert isinstance(answer.error, Overloaded)
        assert answer.error.retry_after_s
        assert "first token" in answer.error.message
        assert len(worker.submissions) == 1
        await finish(world, worker.submissions[0])
        assert (await running).text() == "the"


async def test_a_request_that_names_a_later_target_waits_on(model_folder):
    settings = AdmissionSettings(target_ttft_s=0.2)
    async with open_world(model_folder, admission=settings, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        (held,) = await hold(world, 1, slo=world.slo(target_ttft_ms=60_000))
        shed = await world.ask()

        assert isinstance(shed.error, Overloaded)
        await finish(world, worker.submissions[0])
        await finish(world, await worker.submitted(2))
        assert (await held).text() == "the"
        await running


async def test_an_idle_pool_takes_even_what_would_be_late(model_folder):
    settings = AdmissionSettings(target_ttft_s=1e-6)
    async with open_world(model_folder, admission=settings, slots=1) as world:
        worker = await world.add()
        task = world.start()
        await finish(world, await worker.submitted())

        assert (await task).text() == "the"


async def test_a_full_gateway_makes_room_for_a_tenant_with_less_in_line(model_folder):
    async with open_world(model_folder, slots=1, max_requests=4) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        held = await hold(world, 3, tenant="ann")
        refused = await world.ask(tenant="ann")
        (few,) = await hold_one_more(world, tenant="ben")

        assert isinstance(refused.error, Overloaded)
        displaced = await held[-1]
        assert isinstance(displaced.error, Overloaded)
        assert "tenant" in displaced.error.message
        for task in (running, *held[:-1], few):
            task.cancel()


async def hold_one_more(world, **changes):
    """A request that takes another's place in line."""
    task = world.start(**changes)
    await asyncio.sleep(0)
    return (task,)


async def test_a_request_that_would_be_refused_is_refused_before_it_is_tokenised(model_folder):
    async with open_world(model_folder, slots=1, max_requests=1) as world:
        worker = await world.add()
        running = world.start(tenant="ann", retry_key="key")
        await worker.submitted()

        with pytest.raises(Overloaded):
            world.core.welcome("toy", Visitor("ann"))
        # A retry takes over from the one that runs.
        assert world.core.welcome("toy", Visitor("ann", retry_key="key")).tenant == "ann"
        running.cancel()


async def test_without_admission_nothing_is_held_back(model_folder):
    settings = AdmissionSettings(is_on=False)
    async with open_world(model_folder, admission=settings, slots=1) as world:
        worker = await world.add()
        tasks = [world.start() for _ in range(5)]
        for number in range(1, 6):
            await finish(world, await worker.submitted(number))

        assert [(await task).text() for task in tasks] == ["the"] * 5


async def test_a_request_that_ends_in_the_moment_it_is_let_in_gives_its_place_back(model_folder):
    async with open_world(model_folder, slots=1) as world:
        worker = await world.add()
        running = world.start()
        await worker.submitted()
        first, second = await hold(world, 2)

        running.cancel()
        first.cancel()
        submission = await worker.submitted(2)
        await finish(world, submission)

        assert (await second).text() == "the"
        await asyncio.wait([running, first])
        assert world.admission.num_waiting == 0


async def test_long_texts_wait_for_tokeniser_threads_up_to_a_limit(model_folder, monkeypatch):
    async with open_world(model_folder) as world:
        gate = threading.Event()

        def slow(*_):
            gate.wait(5)
            return TokenIds.of([1])

        monkeypatch.setattr(type(world.text), "encode_packed", slow)
        text = "word " * 200_000
        tasks = [
            asyncio.create_task(world.core.encode(world.text, text)) for _ in range(MAX_LONG_TEXTS)
        ]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded, match="64 long texts"):
            await world.core.encode(world.text, text)
        gate.set()
        await asyncio.gather(*tasks)
        assert await world.core.encode(world.text, text)
