"""Which workers serve a request: a pure rule over a snapshot of the fleet."""

import enum
from dataclasses import dataclass

from triptych.core.errors import ResourceExhausted, TriptychError, Unavailable
from triptych.core.fleet import Fleet, Stage, Worker


class Placement(enum.Enum):
    """What the caller asks for."""

    ANY = enum.auto()
    """The router chooses."""
    COLOCATED = enum.auto()
    """Prefill and decode on one worker."""
    DISAGGREGATED = enum.auto()
    """Prefill and decode on different workers."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of the fleet."""

    prompt_tokens: int
    images: int = 0
    placement: Placement = Placement.ANY
    patches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Limits of the rule.

    Attributes:
        colocate_below_tokens: Shorter prompts are prefilled where they are decoded: a transfer would cost more.
        max_requests_per_worker: Length of the queue before each worker, running requests included.
        retry_after: Seconds that a refused caller is told to wait.
    """

    colocate_below_tokens: int = 0
    max_requests_per_worker: int = 256
    retry_after: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers of one request.

    Attributes:
        encode: The worker of each image, in order; empty without images.
        prefill: Equal to `decode` when colocated.
        reason: Why, in a few words, for people.
    """

    encode: tuple[str, ...]
    prefill: str
    decode: str
    reason: str

    @property
    def colocated(self) -> bool:
        """Whether prefill and decode share a worker and its KV."""
        return self.prefill == self.decode

    @property
    def name(self) -> str:
        """The layout that the request sees: "colocated", "PD", "EPD" or "ED"."""
        if not self.encode:
            return "colocated" if self.colocated else "PD"
        return "ED" if self.colocated else "EPD"


def plan(demand: Demand, fleet: Fleet, policy: RoutingPolicy) -> Plan | TriptychError:
    """Chooses workers for a request, or says why there are none.

    Decode is chosen first, then encode if there are images, then prefill, which stays with decode when the prompt is
    too short to be worth a transfer. Each choice takes the worker with the least dispatched work of that kind.
    """
    decoders = _with_room(fleet.serving(Stage.DECODE), policy)
    if isinstance(decoders, TriptychError):
        return decoders
    decode = min(decoders, key=lambda w: (w.requests, w.worker_id))
    prefill = _choose_prefill(demand, fleet, policy, decode)
    if isinstance(prefill, TriptychError):
        return prefill
    encode = _spread_images(demand.images, fleet, policy)
    if isinstance(encode, TriptychError):
        return encode
    worker, reason = prefill
    return Plan(encode, worker.worker_id, decode.worker_id, reason)


def _choose_prefill(
    demand: Demand, fleet: Fleet, policy: RoutingPolicy, decode: Worker
) -> tuple[Worker, str] | TriptychError:
    # KV goes from prefill to decode workers only: two that sent to each other would each hold what the other awaits.
    others = tuple(w for w in fleet.workers if w.role is Stage.PREFILL) if decode.role is Stage.DECODE else ()
    if demand.placement is Placement.COLOCATED:
        return decode, "the caller asked for one worker"
    if demand.placement is Placement.ANY:
        if demand.prompt_tokens < policy.colocate_below_tokens:
            return decode, f"a prompt under {policy.colocate_below_tokens} tokens is not worth a transfer"
        if not others:
            return decode, "no prefill and decode worker to pair"
    elif not others:
        return Unavailable(
            "a request on two workers needs a prefill and a decode worker; ask for another placement",
            field="placement",
        )
    candidates = _with_room(others, policy)
    if isinstance(candidates, TriptychError):
        return candidates
    return min(candidates, key=lambda w: (w.tokens, w.requests, w.worker_id)), "a prefill worker is free to take it"


def _spread_images(images: int, fleet: Fleet, policy: RoutingPolicy) -> tuple[str, ...] | TriptychError:
    """Least work first, one image after the other, so that one request's images spread over the encode workers."""
    if not images:
        return ()
    candidates = _with_room(fleet.serving(Stage.ENCODE), policy)
    if isinstance(candidates, TriptychError):
        return candidates
    load = {w.worker_id: w.images for w in candidates}
    chosen = []
    for _ in range(images):
        worker_id = min(load, key=lambda name: (load[name], name))
        load[worker_id] += 1
        chosen.append(worker_id)
    return tuple(chosen)


def _with_room(workers: tuple[Worker, ...], policy: RoutingPolicy) -> tuple[Worker, ...] | TriptychError:
    if not workers:
        return Unavailable("no worker is ready for this stage", retry_after=policy.retry_after)
    free = tuple(w for w in workers if w.requests < policy.max_requests_per_worker)
    if free:
        return free
    return ResourceExhausted(
        f"every {workers[0].role} worker has {policy.max_requests_per_worker} requests queued",
        retry_after=policy.retry_after,
    )
