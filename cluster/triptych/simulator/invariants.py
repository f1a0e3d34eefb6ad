"""What must hold at any moment, and what must hold when everything is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triptych.core.errors import Cancelled, DeadlineExceeded
from triptych.core.fleet.stage import Stage
from triptych.core.generation import FinishReason
from triptych.simulator.agenda import Motion

if TYPE_CHECKING:
    from triptych.simulator.client import Client
    from triptych.simulator.decoder import Decoder
    from triptych.simulator.router import Router
    from triptych.simulator.scenario import ClusterSpec
    from triptych.simulator.worker import Worker
    from triptych.simulator.world import World

Problems = Iterator[str]

MAX_OVERTAKEN = 0


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule; `problems` yields what breaks it."""

    name: str
    sentence: str
    problems: Callable[[World], Problems]


def _decoders(world: World) -> Iterator[tuple[Worker, Decoder]]:
    for worker in world.runtime.living:
        if worker.decoder:
            yield worker, worker.decoder


def _blocks(world: World) -> Problems:
    for worker, decoder in _decoders(world):
        for problem in decoder.engine.memory.problems(s.blocks for s in decoder.engine.sequences.values()):
            yield f"{worker.name}: {problem}"


def _operations(world: World) -> Problems:
    for worker, decoder in _decoders(world):
        leases = [state.reservation.ticket_id for state in decoder.receiver.ledger.audit(worker.now).held]
        for problem in decoder.jobs.audit().problems(decoder.engine.sequences, leases):
            yield f"{worker.name}: {problem}"


def _embeddings(world: World) -> Problems:
    for worker in world.runtime.living:
        if worker.encoder:
            for problem in worker.encoder.control.audit().problems:
                yield f"{worker.name}: {problem}"


def _leases(world: World) -> Problems:
    """A lease is looked at every quarter of its life; a process that is stopped cannot look."""
    grace = world.spec.cluster.lease_seconds / 4 + 0.01
    for worker, decoder in _decoders(world):
        if worker.movers.motion is Motion.MOVING and worker.resumed_before(grace):
            for state in decoder.receiver.ledger.audit(worker.now - grace).overdue:
                yield f"{worker.name}: the lease of {state.reservation.ticket_id} has outlived itself"


def _load(world: World) -> Problems:
    if world.router:
        audit = world.router.desk.audit()
        if audit.booked != audit.owed:
            yield f"the router has booked {audit.booked}, and its requests make {audit.owed}"


def _queues(world: World) -> Problems:
    cluster = world.spec.cluster
    if world.router:
        yield from _router_queues(world.router, cluster)
    for worker in world.runtime.living:
        if worker.encoder and worker.encoder.control.queued_images > cluster.waiting_images:
            yield f"{worker.name} has {worker.encoder.control.queued_images} images in its queue"
    for worker, decoder in _decoders(world):
        if decoder.engine.memory.held > cluster.kv_blocks:
            yield f"{worker.name} holds {decoder.engine.memory.held} blocks"
        most = cluster.max_requests_per_worker * max(1, len(worker.sessions))
        if decoder.jobs.waiting > most:
            yield f"{decoder.jobs.waiting} reservations wait for blocks of {worker.name}"
        if decoder.engine.waiting > most:
            yield f"{decoder.engine.waiting} sequences wait in {worker.name}"


def _router_queues(router: Router, cluster: ClusterSpec) -> Problems:
    """Who comes back is let in beyond the limit, once; an encode worker holds embeddings beyond its own requests."""
    desk = router.desk
    if desk.running > cluster.max_running_requests + desk.counters.resumed:
        yield f"the router runs {desk.running} requests"
    if desk.waiting > desk.running:
        yield f"{desk.waiting} requests wait for workers, of {desk.running}"
    most = cluster.max_requests_per_worker
    for worker_id, requests in router.holders().items():
        link = router.links.get(worker_id)
        if requests > most and link and link.worker.role is not Stage.ENCODE:
            yield f"{worker_id} was sent {requests} requests"


def _line(world: World) -> Problems:
    if world.router:
        for name, overtaken in world.line.look(world.router):
            world.overtaken = max(world.overtaken, overtaken)
            if overtaken > MAX_OVERTAKEN:
                yield f"{name} waits for workers, and {overtaken} that came later and want the same have got some"


def _drains(world: World) -> Problems:
    """A router that is stopped, or has just gone on, cannot have looked."""
    router = world.router
    if router and router.resumed_before(1.0):
        for worker_id in router.overstayed():
            yield f"{worker_id} was drained, and its time is over; requests are still on it"


def _starts(world: World) -> Problems:
    runtime = world.runtime
    for worker_id, starts in runtime.starts.items():
        if starts > 1 + runtime.losses[worker_id]:
            yield f"{worker_id} was started {starts} times, with {runtime.losses[worker_id]} reasons to"


def _converged(world: World) -> Problems:
    if world.controller:
        yield from world.controller.unsettled()


def _ended(world: World) -> Problems:
    for client in world.clients:
        if client.outcome is None:
            yield f"{client.name} has no end; it has {len(client.received)} of {len(client.wish.answer)} tokens"


def _starved(world: World) -> Problems:
    for client in world.clients:
        if client.longest_wait > world.spec.bounds.patience:
            yield f"{client.name} heard nothing for {client.longest_wait:.1f} seconds in which nothing was wrong"


def _failures(world: World) -> Problems:
    """Deadlines and clients end requests as they should; only the others are the cluster's failures."""
    failed = [client.name for client in world.clients if failed_by_cluster(client)]
    if len(failed) > world.spec.bounds.failed * len(world.clients):
        reasons = "; ".join(f"{c.name}: {c.outcome}" for c in world.clients if failed_by_cluster(c))
        yield f"{len(failed)} of {len(world.clients)} requests failed: {reasons}"


def _held(world: World) -> Problems:
    yield from world.remains()


def failed_by_cluster(client: Client) -> bool:
    """Whether a request failed for no reason of its own."""
    return not client.refused and not isinstance(client.outcome, FinishReason | Cancelled | DeadlineExceeded)


ALWAYS = (
    Invariant("blocks balance", "Every KV block is free or held by exactly the sequences that list it.", _blocks),
    Invariant("operations balance", "Every sequence and every lease belongs to an operation, and back.", _operations),
    Invariant("embeddings balance", "Every held embedding has a holder, and the bytes add up.", _embeddings),
    Invariant("nothing outlives its lease", "A lease that is over is closed within a quarter of its life.", _leases),
    Invariant("load never drifts", "The booked load is the sum over the requests' states.", _load),
    Invariant("drains end", "No request stays on a drained worker for longer than it was given.", _drains),
    Invariant("nobody is overtaken", "Who waits for workers gets them before later ones that want the same.", _line),
    Invariant("no needless starts", "No worker is started more often than it died, hung or was dismissed.", _starts),
    Invariant("queues are bounded", "No queue of a router or a worker is longer than its limit.", _queues),
)
"""Looked at again and again during a run."""

FINALLY = (
    Invariant("every request ends", "Every client has its end.", _ended),
    Invariant("nothing is leaked", "No operation, block, lease, embedding or record is left.", _held),
    Invariant("converges", "Every desired worker serves, and none of them is being drained.", _converged),
    Invariant("nobody starves", "No client hears nothing for `bounds.patience` while nothing is wrong.", _starved),
    Invariant("few failures", "No more than `bounds.failed` of the requests fail because of the cluster.", _failures),
)
"""Looked at when everything is over."""

AS_IT_HAPPENS = {
    "same tokens": "A client's tokens are those of the undisturbed run, in their order, none twice, none left out.",
    "one end": "A request ends once.",
    "whole answers": "An answer that ends is complete.",
    "honest failures": "A request fails for its deadline, its client, a refusal or a used-up budget.",
    "no defects": "Nothing raises, and nobody reports an internal error.",
    "one Free": "A holder is sent one Free per attempt.",
    "work for the healthy": "An attempt begins at a worker that is neither suspect, draining nor dead.",
    "retry budget": "No request is begun anew more often in a row than it may, without a token.",
    "no stray writes": "KV is written into blocks of the sequence it belongs to.",
    "leases live": "A lease does not end while its router is heard.",
    "deadlines reach workers": "No worker begins to compute what nobody wants any more.",
}
"""Looked at by `Checks` in the moment."""
