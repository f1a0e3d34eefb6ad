"""Whatever happens: one actor per worker, never without the last able worker, and in the end what is desired."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.core.errors import TriptychError
from triptych.core.fleet import Stage
from triptych.core.reconcile import Drain, Serving, drain, scale

Make = Callable[..., Any]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("finish one"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("die"), st.integers(0, 9), st.none()),
        st.tuples(st.just("dead"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("hear"), st.integers(0, 5), st.none()),
        st.tuples(st.just("drain"), st.integers(0, 9), st.floats(0, 50)),
        st.tuples(st.just("scale"), st.sampled_from(list(Stage)), st.integers(0, 4)),
        st.tuples(st.just("wait"), st.floats(0, 60), st.none()),
    ),
    max_size=60,
)


def take(world: Any, kind: str, what: Any, how: Any) -> tuple[Any, ...]:
    """One step of the story; gives the actions that it leads to."""
    workers = sorted(world.actors)
    chosen = workers[what % len(workers)] if workers and isinstance(what, int) else None
    match kind:
        case "finish one" if world.under_way:
            return tuple(world.finish_one(what % len(world.under_way), fails=how))
        case "die" if chosen:
            return tuple(world.die(chosen))
        case "dead" if chosen:
            (world.dead.add if how else world.dead.discard)(chosen)
        case "hear":
            world.requests = dict.fromkeys(workers, what)
            return tuple(world.hear())
        case "drain" | "scale":
            try:
                if kind == "scale":
                    world.roster, _, _ = scale(world.roster, what, how, 10.0)
                elif chosen:
                    world.roster = drain(world.roster, chosen, how)
            except TriptychError:
                return ()
            return tuple(world.turn())
        case "wait":
            world.now += what
            return tuple(world.turn())
    return ()


def able(world: Any, stage: Stage) -> int:
    """Desired workers that serve and can do a stage."""
    roster = world.roster
    return sum(
        isinstance(worker.state, Serving) and worker_id in roster.desired and stage in roster.abilities[worker.role]
        for worker_id, worker in roster.workers.items()
    )


@given(story=STEPS, encode=st.integers(0, 2), prefill=st.integers(0, 2), decode=st.integers(1, 3))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_story_ends_with_what_is_desired(
    make_world: Make, story: list[tuple[str, Any, Any]], encode: int, prefill: int, decode: int
) -> None:
    world = make_world(running=False, encode=encode, prefill=prefill, decode=decode)
    stages = {stage for role in world.roster.desired.values() for stage in world.roster.abilities[role]}
    world.turn()
    for kind, what, how in story:
        for action in take(world, kind, what, how):  # the world itself asserts one actor per worker
            if isinstance(action, Drain):
                role = Stage(action.worker_id.partition("-")[0])
                again = action.worker_id in world.drained
                assert again or all(able(world, stage) for stage in world.roster.abilities[role]), action
                world.drained.add(action.worker_id)
        world.drained &= world.actors.keys()
        left = {stage for role in world.roster.desired.values() for stage in world.roster.abilities[role]}
        assert left >= stages, "a stage was scaled away that nobody else can do"
        stages = left
    world.settle()
    assert world.actors.keys() == world.roster.desired.keys() == world.roster.workers.keys()
    assert all(isinstance(worker.state, Serving) for worker in world.roster.workers.values())
