"""Which workers serve a request: a pure rule over a snapshot of the fleet."""

from triptych.core.errors import ResourceExhausted, TriptychError, Unavailable
from triptych.core.fleet.stage import Stage
from triptych.core.fleet.worker import Fleet, Worker
from triptych.core.plan import Demand, Goal, Placement, Plan, RoutingPolicy

Wanted = tuple[int, Placement, bool, frozenset[str], Goal, frozenset[str]]


def wanted(demand: Demand, policy: RoutingPolicy, avoid: frozenset[str]) -> Wanted:
    """All that `choose` looks at in a request: where one finds no room, no other that wants the same does."""
    short = demand.prompt_tokens < policy.colocate_below_tokens
    return len(demand.patches), demand.placement, short, demand.near, demand.goal, avoid


def choose(
    demand: Demand, fleet: Fleet, policy: RoutingPolicy, avoid: frozenset[str] = frozenset()
) -> Plan | TriptychError:
    """Chooses workers for a request, or says why there are none.

    Vectors are made by one encode worker. For an answer decode is chosen first, then encode if there are images, then
    prefill, which stays with decode when the prompt is too short to be worth a transfer. Each choice takes the worker
    with the least dispatched work of that kind, among those that hold the prompt already where there are any.

    Args:
        demand: What the request asks.
        fleet: The workers that accept work.
        policy: Limits of the rule.
        avoid: Workers at which the request has failed; taken only where there is no other plan, and then last.
    """
    if avoid:
        elsewhere = choose(demand, fleet.without(avoid), policy)
        if isinstance(elsewhere, Plan):
            return elsewhere
    if demand.goal is Goal.VECTORS:
        return _choose_embedder(fleet, policy, avoid)
    decoders = _with_room(fleet.serving(Stage.DECODE), policy)
    if isinstance(decoders, TriptychError):
        return decoders
    decode = min(
        decoders, key=lambda w: (w.worker_id in avoid, w.worker_id not in demand.near, w.load.requests, w.worker_id)
    )
    prefill = _choose_prefill(demand, fleet, policy, decode, avoid)
    if isinstance(prefill, TriptychError):
        return prefill
    encode = _spread_images(demand, fleet, policy, avoid)
    if isinstance(encode, TriptychError):
        return encode
    worker, reason = prefill
    return Plan(encode, worker.worker_id, decode.worker_id, reason)


def _choose_embedder(fleet: Fleet, policy: RoutingPolicy, avoid: frozenset[str]) -> Plan | TriptychError:
    """The encode worker with the fewest tokens before it."""
    candidates = _with_room(fleet.serving(Stage.ENCODE), policy)
    if isinstance(candidates, TriptychError):
        return candidates
    best = min(
        candidates, key=lambda w: (w.worker_id in avoid, w.load.tokens, w.load.requests, w.worker_id)
    ).worker_id
    return Plan((), best, best, "an encode worker makes vectors by itself")


def _choose_prefill(
    demand: Demand, fleet: Fleet, policy: RoutingPolicy, decode: Worker, avoid: frozenset[str]
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
            "a request on two workers needs a prefill and a decode worker, and they are not both ready; "
            "a cluster that lacks one of them can only serve another placement",
            field="placement",
            retry_after=policy.retry_after,  # the missing one may be on its way back
        )
    candidates = _with_room(others, policy)
    if isinstance(candidates, TriptychError):
        return candidates
    best = min(
        candidates,
        key=lambda w: (
            w.worker_id in avoid, w.worker_id not in demand.near, w.load.tokens, w.load.requests, w.worker_id
        ),
    )  # fmt: skip
    if demand.placement is Placement.ANY and {best.worker_id, decode.worker_id} <= avoid:
        return decode, "what two workers failed at, one does without a transfer"
    return best, "a prefill worker is free to take it"


def _spread_images(
    demand: Demand, fleet: Fleet, policy: RoutingPolicy, avoid: frozenset[str]
) -> tuple[str, ...] | TriptychError:
    """Least work first, one image after the other, so that one request's images spread over the encode workers."""
    if not demand.patches:
        return ()
    candidates = _with_room(fleet.serving(Stage.ENCODE), policy)
    if isinstance(candidates, TriptychError):
        return candidates
    load = {w.worker_id: w.load.patches for w in candidates}
    chosen = []
    for size in demand.patches:
        worker_id = min(load, key=lambda name: (name in avoid, name not in demand.near, load[name], name))
        load[worker_id] += size
        chosen.append(worker_id)
    return tuple(chosen)


def _with_room(workers: tuple[Worker, ...], policy: RoutingPolicy) -> tuple[Worker, ...] | TriptychError:
    if not workers:
        return Unavailable("no worker is ready for this stage", retry_after=policy.retry_after)
    free = tuple(w for w in workers if w.load.requests < policy.max_requests_per_worker)
    if free:
        return free
    return ResourceExhausted(
        f"every {workers[0].role} worker has {policy.max_requests_per_worker} requests queued",
        retry_after=policy.retry_after,
    )
