"""The models that workers serve or have served, and their text sides."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from baton.errors import InvalidRequest, ModelError, UnknownModel
from baton.guides import GuideChecks, GuideCompiler
from baton.registry.records import WorkerRecord
from baton.request import Role
from baton.rpc import logs
from baton.text import ModelText, load_text
from services.gateway.types import ModelInfo

PATH_LABEL = "model_path"
"""Label of a worker's record: the folder it loaded, readable here if both share a file system."""

log = logs.get_logger(__name__)


class Workers(Protocol):
    """Whoever knows the live workers."""

    version: int
    """Grows whenever `workers` changes."""

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """Worker records by worker id."""


@dataclass(slots=True)
class _Known:
    """A model that some worker served once."""

    created: int
    context_len: int = 0
    path: str = ""


class Models:
    """Remembers every model that a worker named; loads its tokeniser once, off the event loop."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, _Known] = {}
        self._texts: dict[Path, asyncio.Task[ModelText]] = {}
        self._infos: dict[str, tuple[int, ModelInfo]] = {}
        """By name, and of which version of the directory."""
        self._checks: dict[Path, GuideChecks] = {}

    @property
    def names(self) -> list[str]:
        """All models ever served, sorted."""
        return sorted(self._known)

    def note(self, record: WorkerRecord) -> None:
        """Learns from a worker's record."""
        if not record.model or record.role is Role.KVSTORE:
            return
        known = self._known.setdefault(record.model, _Known(created=int(time.time())))
        known.context_len = record.context_len or known.context_len
        known.path = record.labels.get(PATH_LABEL, known.path)

    def pick(self, name: str, records: Iterable[WorkerRecord]) -> str | None:
        """The model that a request means; None while no worker has ever come; or `UnknownModel`."""
        if not self._known:
            return None
        if name in self._known:
            return name
        if name:
            raise UnknownModel(
                f"model {name!r} is not served; known: {', '.join(self.names)}", field="model"
            )
        live = {record.model for record in records if record.role is Role.DECODE}
        candidates = sorted(live & self._known.keys()) or self.names
        if len(candidates) > 1:
            raise InvalidRequest(
                f"model is empty, but {len(candidates)} are served: {', '.join(candidates)}",
                field="model",
            )
        return candidates[0]

    def info(self, name: str, directory: Workers) -> ModelInfo:
        """A known model, with its live workers counted."""
        version, info = self._infos.get(name, (-1, None))
        if info is None or version != directory.version:
            info = self._count(name, directory.workers.values())
            self._infos[name] = directory.version, info
        return info

    def _count(self, name: str, records: Iterable[WorkerRecord]) -> ModelInfo:
        known = self._known[name]
        mine = [record for record in records if record.model == name]
        decode = [record for record in mine if record.role is Role.DECODE]
        # The shortest, so that a request that fits may go to any of them.
        lengths = [record.context_len for record in decode if record.context_len]
        return ModelInfo(
            name=name,
            context_len=min(lengths, default=known.context_len),
            num_decode_workers=len(decode),
            num_prefill_workers=sum(record.role is Role.PREFILL for record in mine),
            created=known.created,
        )

    async def text(self, name: str) -> ModelText:
        """A known model's text side. Raises `ModelError` when no folder of it can be read here."""
        return await self._load(self._find_folder(name))

    async def guide_checks(self, name: str) -> GuideChecks:
        """What decides whether a known model can follow a guide. Raises `ModelError`."""
        folder = self._find_folder(name)
        text = await self._load(folder)
        if folder not in self._checks:
            compiler = GuideCompiler(folder, text.vocab_size, text.eos_token_ids)
            self._checks[folder] = GuideChecks(compiler)
        return self._checks[folder]

    def close(self) -> None:
        """Ends the threads that check guides."""
        for checks in self._checks.values():
            checks.close()

    async def preload(self) -> None:
        """Loads the folder given, if any, before the first request. Raises `ModelError`."""
        if self._folder is not None:
            await self._load(self._folder)

    async def _load(self, folder: Path) -> ModelText:
        task = self._texts.get(folder)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(load_text, folder))
            self._texts[folder] = task
            task.add_done_callback(lambda done: _tell(folder, done))
        try:
            # Shielded: one client that leaves must not take the others' tokeniser with it.
            return await asyncio.shield(task)
        except ModelError:
            self._texts.pop(folder, None)
            raise

    def _find_folder(self, name: str) -> Path:
        path = self._known[name].path
        own = self._folder
        candidates = [
            *([own] if own is not None and own.name == name else []),
            *([Path(path)] if path else []),
            *([own] if own is not None else []),
        ]
        for folder in candidates:
            if folder.is_dir() and os.access(folder, os.R_OK):
                return folder
        tried = ", ".join(str(folder) for folder in candidates) or "none"
        raise ModelError(
            f"no readable folder of model {name!r} (tried: {tried}); start the gateway with --model"
        )


def _tell(folder: Path, loaded: asyncio.Task[ModelText]) -> None:
    """Says which library tokenises: a slow one costs milliseconds on long prompts."""
    if loaded.cancelled() or loaded.exception() is not None:
        return
    encoder = loaded.result().encoder
    tell = log.warning if encoder.reason else log.info
    tell("tokenizer loaded", folder=str(folder), library=encoder.name, reason=encoder.reason)
