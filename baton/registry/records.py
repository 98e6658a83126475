"""What is written to Redis: plain records and their form there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType

from baton.blocks import KvLayout
from baton.policy.learned import NOTHING_LEARNED, Learned
from baton.request import Role

Fields = dict[str, str | int | float | bytes]
"""A hash as it is written; it is read back as bytes to bytes."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a worker says about itself. `epoch` is a random id that it takes at start."""

    worker_id: str
    role: Role
    address: str
    epoch: str
    model: str = ""
    layout: KvLayout | None = None
    """How blocks lie; None for a kvstore, which takes blocks of any layout."""
    num_blocks: int = 0
    context_len: int = 0
    metrics_address: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Topology (`host` and whatever else tells near from far), the kind of `engine`, the addresses
    of its `kvstores`, and `events`: `none` for a foreign worker that announces none."""
    transports: tuple[str, ...] = ()
    """Transports it can use for hand-offs, best first."""
    is_draining: bool = False
    """Finishes what it has and wants nothing new."""

    @property
    def namespace(self) -> str:
        """The namespace of its block keys; empty without a layout."""
        return self.layout.namespace if self.layout else ""

    @property
    def kvstores(self) -> frozenset[str]:
        """Addresses of the stores that it uses, as it was told them; empty: none."""
        return frozenset(filter(None, self.labels.get("kvstores", "").split(",")))

    @property
    def announces_events(self) -> bool:
        """Whether it says what it caches; of others gateways guess it."""
        return self.labels.get("events") != "none"

    @property
    def block_size(self) -> int:
        """Tokens in a block; 0 without a layout."""
        return self.layout.block_size if self.layout else 0

    def to_fields(self) -> Fields:
        """The record as a Redis hash."""
        return {
            "worker_id": self.worker_id,
            "role": self.role.name,
            "address": self.address,
            "epoch": self.epoch,
            "model": self.model,
            "layout": json.dumps(asdict(self.layout)) if self.layout else "",
            "num_blocks": self.num_blocks,
            "context_len": self.context_len,
            "metrics_address": self.metrics_address,
            "labels": json.dumps(dict(self.labels)),
            "transports": json.dumps(self.transports),
            "is_draining": int(self.is_draining),
        }

    @classmethod
    def from_fields(cls, raw: Mapping[bytes, bytes]) -> WorkerRecord:
        """The record behind a Redis hash. Raises ValueError where it makes no sense."""
        text = {name.decode(): value.decode() for name, value in raw.items()}
        try:
            return cls(
                worker_id=text["worker_id"],
                role=Role[text["role"]],
                address=text["address"],
                epoch=text["epoch"],
                model=text["model"],
                layout=KvLayout(**json.loads(text["layout"])) if text["layout"] else None,
                num_blocks=int(text["num_blocks"]),
                context_len=int(text["context_len"]),
                metrics_address=text["metrics_address"],
                labels=json.loads(text["labels"]),
                transports=tuple(json.loads(text["transports"])),
                is_draining=text["is_draining"] == "1",
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the worker record {text} lacks or mistypes {error}") from error


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """How busy a worker is: the newest engine step and the state behind it, as in `StepLoad`."""

    num_prompt_tokens: int = 0
    num_decode_tokens: int = 0
    num_context_tokens: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_receiving: int = 0
    num_waiting_tokens: int = 0
    """Known, uncomputed tokens of waiting and running sequences."""
    num_used_blocks: int = 0
    num_blocks: int = 0
    num_preemptions: int = 0
    step_us: int = 0
    learned: Learned = NOTHING_LEARNED
    """What the worker's times can be predicted from."""

    @property
    def num_sequences(self) -> int:
        """Sequences in the engine, in any state."""
        return self.num_running + self.num_waiting + self.num_receiving

    @classmethod
    def of(cls, source: object) -> LoadRecord:
        """The record behind an engine's `StepLoad`, a mapping or anything else with these names;
        missing ones are 0.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, Mapping):
            numbers = [int(source.get(name, 0)) for name in _LOAD_FIELDS]
        else:
            numbers = [int(getattr(source, name, 0)) for name in _LOAD_FIELDS]
        return cls(*numbers)  # type: ignore[arg-type]  # fewer than all fields: only the numbers

    def to_json(self) -> str:
        """The record as it is written."""
        numbers: dict[str, object] = {name: getattr(self, name) for name in _LOAD_FIELDS}
        return json.dumps(numbers | {"learned": self.learned.to_values()})

    @classmethod
    def from_json(cls, raw: bytes) -> LoadRecord:
        """The record behind its JSON form; names of other versions are ignored."""
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise ValueError(f"a load record is a JSON object, not {values!r:.80}")
        learned = values.get("learned", {})
        if not isinstance(learned, dict):
            raise ValueError(f"what a worker has learnt is an object, not {learned!r:.80}")
        return replace(cls.of(values), learned=Learned.from_values(learned))


_LOAD_FIELDS = tuple(spec.name for spec in fields(LoadRecord) if spec.name != "learned")
"""Its numbers, in order."""


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """Some of the blocks that a worker or store has; all parts together are all of them.

    They contain every event up to `event_seq` and may contain later ones: read the announcer's
    `event_seq` first and ask the engine for its keys after that.
    """

    epoch: str
    event_seq: int
    """The same in all parts."""
    keys: bytes
    """16 bytes each, one behind the other."""
