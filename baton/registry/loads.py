"""The newest loads of workers, with a number that tells whether any has changed."""

from __future__ import annotations

from baton.registry.records import LoadRecord


class Loads(dict[str, LoadRecord]):
    """By worker id. Set by index only; who goes is popped when its worker's record goes.

    A load that equals the one before is not taken: the old object stays, so that whoever keeps it
    sees at a glance that nothing has changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        """Grows whenever a load changes."""

    def __setitem__(self, worker_id: str, load: LoadRecord) -> None:
        if self.get(worker_id) != load:
            super().__setitem__(worker_id, load)
            self.version += 1
