"""Fetches embeddings from the processes that keep them; the reader verifies what it got."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from triptych.core.errors import DataLoss, TriptychError, Unavailable
from triptych.simulator.messages import Handle
from triptych.simulator.mischief import Damage
from triptych.simulator.tokens import checksum

if TYPE_CHECKING:
    from triptych.simulator.worker import Worker

STALL_SECONDS = 30.0
MAX_TRIES = 3

Outcome = Callable[[dict[str, int] | TriptychError], None]


def pull(worker: Worker, handles: tuple[Handle, ...], done: Outcome) -> None:
    """Fetches all of them, one after the other; `done` hears of it once."""
    _Pull(worker, handles, done).fetch()


class _Pull:
    def __init__(self, worker: Worker, handles: tuple[Handle, ...], done: Outcome) -> None:
        self._worker = worker
        self._handles = handles
        self._done = done
        self._got: dict[str, int] = {}
        self._tries = 0
        self._fetches = 0

    def fetch(self) -> None:
        """The next one, or the end."""
        if len(self._got) == len({handle.picture for handle in self._handles}):
            self._done(self._got)
            return
        handle = next(handle for handle in self._handles if handle.picture not in self._got)
        self._fetches += 1
        fetch = self._fetches
        worker, world = self._worker, self._worker.world
        source = world.process(handle.worker_id, handle.incarnation)
        lost = Unavailable(f"the embeddings of worker {handle.worker_id} cannot be reached")
        worker.note(handle.worker_id, f"fetch {handle.picture}")
        if source is None or source.encoder is None:
            worker.after(2 * world.spec.network.latency, lambda: self._fail(fetch, lost))
            return
        encoder = source.encoder

        def serve() -> None:
            back = world.network.wire(source.name, worker.name)
            value = encoder.values.get(handle.picture)
            damage = world.mischief.of_transfer()
            if damage is Damage.CORRUPT and value is not None:
                value ^= 1
            if damage is Damage.TRUNCATED:
                world.network.carry(back, lambda: self._again(fetch, lost), worker.movers)
            else:
                size = world.spec.costs.embedding_bytes
                world.network.carry(back, lambda: self._arrive(fetch, handle, value), worker.movers, size)
            if damage is not Damage.NONE:
                source.note(worker.name, f"{handle.picture}{damage.suffix}")

        world.network.carry(world.network.wire(worker.name, source.name), serve, source.movers)
        source.when_dead(worker.movers, lambda: self._fail(fetch, lost))
        worker.after(STALL_SECONDS, lambda: self._fail(fetch, lost))

    def _arrive(self, fetch: int, handle: Handle, value: int | None) -> None:
        if fetch != self._fetches:
            return
        if value is None:
            self._fail(fetch, Unavailable(f"worker {handle.worker_id} does not keep {handle.picture} any more"))
        elif checksum((value,)) != handle.checksum:
            self._again(fetch, DataLoss(f"the embeddings of {handle.picture} kept a wrong checksum"))
        else:
            self._got[handle.picture] = value
            self._tries = 0
            self.fetch()

    def _again(self, fetch: int, error: TriptychError) -> None:
        if fetch != self._fetches:
            return
        self._tries += 1
        if self._tries >= MAX_TRIES:
            self._fail(fetch, error)
        else:
            self.fetch()

    def _fail(self, fetch: int, error: TriptychError) -> None:
        if fetch == self._fetches:
            self._fetches += 1
            self._done(error)
