"""All links of a router, kept equal to what the controller says is placed."""

import asyncio
import contextlib
from collections.abc import Iterable

from triptych.router.fleet import FleetDirectory, WorkerAddress
from triptych.router.link import LinkListener, WorkerLink
from triptych.stage.v1 import stage_pb2 as pb


class Links:
    """Opens, replaces and closes links as workers come, move and go.

    Args:
        router_id: How this router names itself to workers.
        fleet: Learns the addresses.
        listener: Hears the events of every worker.
    """

    def __init__(self, router_id: str, fleet: FleetDirectory, listener: LinkListener) -> None:
        self._router_id = router_id
        self._fleet = fleet
        self._listener = listener
        self._links: dict[str, WorkerLink] = {}
        self._placing = asyncio.Lock()

    def send(self, worker_id: str, command: pb.ConnectRequest) -> None:
        """Queues a command for a worker."""
        if link := self._links.get(worker_id):
            link.send(command)

    def cut(self, worker_id: str, reason: str) -> None:
        """Ends the stream to a worker, if there is one, and opens another; see `WorkerLink.cut`."""
        if link := self._links.get(worker_id):
            link.cut(reason)

    async def place(self, addresses: Iterable[WorkerAddress]) -> None:
        """Makes the links match `addresses`; a worker at a new address gets a new stream."""
        async with self._placing:  # in the order of the calls: the last word counts
            self._fleet.addresses = {address.worker_id: address for address in addresses}
            wanted = {a.worker_id: a.address for a in self._fleet.addresses.values() if a.address}
            stale = [link for link in self._links.values() if wanted.get(link.worker_id) != link.address]
            for link in stale:
                del self._links[link.worker_id]
            await asyncio.gather(*(link.close() for link in stale))
            for worker_id, address in wanted.items():
                if worker_id not in self._links:
                    self._links[worker_id] = WorkerLink(worker_id, address, self._router_id, self._listener)

    async def close(self) -> None:
        """Closes every link."""
        links, self._links = list(self._links.values()), {}
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(link.close() for link in links))
