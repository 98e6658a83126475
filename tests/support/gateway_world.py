"""A gateway's core with everything real but its workers and where it learns of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from baton.errors import BatonError
from baton.policy.index import BlockIndex
from baton.policy.workers import RoutingConfig
from baton.registry.bookings import BookingBoard
from baton.registry.loads import Loads
from baton.registry.records import WorkerRecord
from baton.request import Role, SamplingParams
from baton.text import ModelText, load_text
from baton.tokens import TokenIds
from services.gateway.admission import Admission, AdmissionSettings
from services.gateway.core import Core, Limits
from services.gateway.fleet import Fleet, OnWorker
from services.gateway.models import Models
from services.gateway.placement import Placer
from services.gateway.pools import FleetPools
from services.gateway.tenants import Tenants
from services.gateway.types import Chunk, Final, GenerateCommand, SloHints
from tests.support.fake_decode import LAYOUT, FakeDecode, eventually
from tests.support.tokenizers_made import byte_level_tokenizer, write_folder

MODEL = "toy"
ADMISSION = AdmissionSettings(target_ttft_s=0.0)
"""Nothing is refused because a busy machine is slow, unless a test asks for it."""


class ManualDirectory:
    """Workers come and go as the test says."""

    def __init__(self, on_up: OnWorker, on_down: OnWorker) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.version = 0
        self.loads = Loads()
        self.index = BlockIndex()
        self.staleness_s = 0.0
        self._on_up, self._on_down = on_up, on_down

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def up(self, record: WorkerRecord) -> None:
        """A worker comes."""
        self.workers[record.worker_id] = record
        self.version += 1
        self._on_up(record)

    def change(self, worker_id: str, **changes: object) -> None:
        """A worker's record changes."""
        self.workers[worker_id] = replace(self.workers[worker_id], **changes)
        self.version += 1

    def down(self, worker_id: str) -> None:
        """A worker goes."""
        self.version += 1
        self._on_down(self.workers.pop(worker_id))


def record_of(worker: FakeDecode, role: Role = Role.DECODE) -> WorkerRecord:
    """What a worker would announce."""
    return WorkerRecord(
        worker_id=worker.worker_id,
        role=role,
        address=worker.address,
        epoch=worker.epoch,
        model=worker.model,
        layout=LAYOUT,
        num_blocks=100,
        context_len=worker.context_len,
    )


def prefill_record(worker_id: str) -> WorkerRecord:
    """A prefill worker that nobody ever calls."""
    return WorkerRecord(
        worker_id=worker_id,
        role=Role.PREFILL,
        address=f"{worker_id}.test:1",
        epoch="1",
        model=MODEL,
        layout=LAYOUT,
        num_blocks=100,
        context_len=64,
    )


@dataclass
class Answer:
    """All that a client got."""

    chunks: list[Chunk] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    error: BatonError | None = None
    num_after_final: int = 0

    @property
    def final(self) -> Final:
        assert self.error is None, f"ended with {self.error!r}"
        assert len(self.finals) == 1
        return self.finals[0]

    def text(self, sample: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.sample_index == sample)

    def tokens(self, sample: int = 0) -> list[int]:
        return [t for chunk in self.chunks if chunk.sample_index == sample for t in chunk.token_ids]

    def last(self, sample: int = 0) -> Chunk:
        return [chunk for chunk in self.chunks if chunk.sample_index == sample][-1]

    def assert_ended_exactly_once(self) -> None:
        assert len(self.finals) + (self.error is not None) == 1
        assert self.num_after_final == 0
        ends: dict[int, int] = defaultdict(int)
        for chunk in self.chunks:
            assert not ends[chunk.sample_index], "a chunk behind a sample's last one"
            ends[chunk.sample_index] += chunk.finish_reason is not None
        if self.finals:
            assert all(ends[sample.sample_index] == 1 for sample in self.finals[0].samples)


class World:
    """The core and the test's hand on all around it."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        admission: AdmissionSettings = ADMISSION,
        tenants: Tenants | None = None,
        slots: int = 0,
        board: BookingBoard | None = None,
    ) -> None:
        """`slots`: sequences per worker; 0: as many as a worker takes. `board`: nobody else's."""
        self.text: ModelText = load_text(folder)
        self.is_draining = False
        self.board = board or BookingBoard("redis://127.0.0.1:1", "gateway-0")
        self.directory: ManualDirectory
        self.fleet = Fleet(self.board.gateway_id, Models(folder), self._open)
        config = RoutingConfig(remote_threshold_tokens=8)
        self.placer = Placer(self.fleet, self.board, config, limits.worker_wait_s)
        tenants = tenants or Tenants()
        pools = FleetPools(self.fleet, self.board, slots, weight_of=tenants.weight)
        self.admission = Admission(pools, admission, tenants)
        self.board.share_lines(self.admission.lines)
        self.core = Core(
            self.fleet,
            self.fleet.models,
            self.placer,
            limits,
            self.admission,
            lambda: self.is_draining,
        )
        self.workers: list[FakeDecode] = []

    async def add(self, worker_id: str = "decode-0") -> FakeDecode:
        """A decode worker that the gateway is connected to."""
        worker = await FakeDecode(worker_id).start()
        self.workers.append(worker)
        self.directory.up(record_of(worker))
        await self.linked(worker_id)
        return worker

    async def linked(self, worker_id: str) -> None:
        """Waits until a worker's stream is up."""
        await eventually(lambda: worker_id in self.usable, f"{worker_id} linked")

    @property
    def usable(self) -> list[str]:
        """Decode workers that could take a request."""
        return list(self.fleet.decode_workers(MODEL))

    def slo(self, **hints: int) -> SloHints:
        """What a client hopes for."""
        return SloHints(**hints)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self.text.encode(text, add_special_tokens=False)

    @property
    def eos(self) -> int:
        """The model's stop token."""
        return self.text.eos_token_ids[0]

    def command(self, prompt: str = "Hello", **changes: object) -> GenerateCommand:
        """A checked request; `changes` go to it or to its sampling parameters."""
        names = SamplingParams.__dataclass_fields__
        sampling = {name: value for name, value in changes.items() if name in names}
        others = {name: value for name, value in changes.items() if name not in names}
        command = GenerateCommand(
            request_id="request-1",
            model=MODEL,
            token_ids=TokenIds.of(self.ids(prompt)),
            sampling=replace(SamplingParams(max_tokens=40, temperature=0.0), **sampling),
        )
        return replace(command, **others)

    async def ask(self, prompt: str = "Hello", **changes: object) -> Answer:
        """A whole answer."""
        return await collect(self.core, self.command(prompt, **changes))

    def start(self, prompt: str = "Hello", **changes: object) -> asyncio.Task[Answer]:
        """A request that runs beside the test."""
        return asyncio.create_task(self.ask(prompt, **changes))

    async def close(self) -> None:
        """Ends everything."""
        await self.core.close()
        await self.fleet.stop()
        for worker in self.workers:
            await worker.stop()

    def _open(self, on_up: OnWorker, on_down: OnWorker) -> ManualDirectory:
        self.directory = ManualDirectory(on_up, on_down)
        return self.directory


async def collect(core: Core, command: GenerateCommand) -> Answer:
    """Reads a request to its end."""
    answer = Answer()
    try:
        async for event in core.generate(command):
            answer.num_after_final += bool(answer.finals)
            if isinstance(event, Final):
                answer.finals.append(event)
            else:
                answer.chunks.append(event)
    except BatonError as error:
        answer.error = error
    return answer


def make_folder(path: Path) -> Path:
    """The toy model's tokenizer and templates."""
    return write_folder(path / MODEL, byte_level_tokenizer())


@asynccontextmanager
async def open_world(
    folder: Path,
    admission: AdmissionSettings = ADMISSION,
    tenants: Tenants | None = None,
    slots: int = 0,
    board: BookingBoard | None = None,
    **limits: float,
) -> AsyncIterator[World]:
    """A world that is closed behind the test."""
    limits = {"worker_wait_s": 2.0, **limits}
    world = World(folder, Limits(**limits), admission, tenants, slots, board)
    try:
        yield world
    finally:
        await world.close()
