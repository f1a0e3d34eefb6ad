"""One run: the same for the same seed, in another process too; undisturbed it needs nothing healed."""

import os
import subprocess
import sys

import pytest

from triptych.core.generation import FinishReason
from triptych.simulator.outcome import simulate
from triptych.simulator.reading import load_scenario, names
from triptych.simulator.world import World

PRINT = """
from triptych.simulator.reading import load_scenario
from triptych.simulator.world import World
world = World(load_scenario("everything"), 11, transcript=True)
world.run()
print("\\n".join(world.transcript.lines))
"""


def transcript(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True).stdout


def test_a_seed_is_one_run_whatever_python_hashes() -> None:
    one, other = transcript("1"), transcript("2")
    assert len(one.splitlines()) > 400
    assert one == other


def test_another_seed_is_another_run() -> None:
    spec = load_scenario("everything")
    assert simulate(spec, 1).events != simulate(spec, 2).events


def test_the_transcript_changes_nothing() -> None:
    spec = load_scenario("everything")
    told, silent = World(spec, 5, transcript=True), World(spec, 5)
    assert told.run() == silent.run()
    assert told.agenda.events == silent.agenda.events
    assert not silent.transcript.lines


def test_nothing_is_begun_anew_where_nothing_goes_wrong() -> None:
    sums = simulate(load_scenario("quiet"), 3)
    assert sums.requests == {"finished": 16}
    assert (sums.replays, sums.replayed_tokens, sums.resumes, sums.injected.total()) == (0, 0, 0, 0)
    assert sums.computed_tokens <= sums.needed_tokens


@pytest.mark.parametrize("name", names())
def test_answers_are_those_of_the_undisturbed_run(name: str) -> None:
    world = World(load_scenario(name), 7)
    assert world.run() is None
    for client in world.clients:
        if isinstance(client.outcome, FinishReason):
            assert tuple(client.received) == client.wish.answer
        else:
            assert tuple(client.received) == client.wish.answer[: len(client.received)]


@pytest.mark.parametrize("name", names())
def test_every_misfortune_of_a_scenario_happens(name: str) -> None:
    spec = load_scenario(name)
    wanted = {
        kind
        for kind in ("crash", "hang", "slow", "zombie", "partition", "drain", "scale")
        if getattr(spec.faults, kind)
    }
    happened: set[str] = set()
    for seed in range(40):
        happened |= {str(kind) for kind in simulate(spec, seed).injected}
        if wanted <= happened:
            return
    raise AssertionError(f"{name} never had {wanted - happened} in 40 runs")
