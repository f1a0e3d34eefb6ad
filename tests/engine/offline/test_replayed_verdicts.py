"""What replay says of settings is what an engine with these settings counts."""

from collections.abc import Iterator
from functools import partial

import pytest

from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.route_recording import record
from triptych.experts import opening, speculation
from triptych.experts.residency import Counts
from triptych.experts.settings import Fraction, OffloadSettings, PolicyName
from triptych.experts.speculation import SpeculationSwitch
from triptych.experts.switch import Resting, Trying
from triptych.experts.traces import Device, Script, replay
from triptych.experts.traces.arms import Arms

MODEL = "builtin:smollm2-moe"
PROMPTS = ["The capital of France is", "def fibonacci(n):\n    ", "Once upon a time"]
ANSWERS = [SamplingParams(temperature=0.8, seed=place, max_tokens=8, ignore_eos=True) for place in range(3)]
DEVICE = Device(bandwidth=1e9, step=0.01)


def engine(offload: OffloadSettings | None = None) -> Engine:
    return Engine(MODEL, kv_cache_memory=1 << 25, max_running=2, threads=1, expert_offload=offload)


def texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


@pytest.fixture(scope="module")
def recorded() -> Iterator[tuple[Script, list[str]]]:
    with engine() as resident:
        script = Script.of(record(resident, MODEL, list(PROMPTS), ANSWERS))
        yield script, texts(resident.generate(PROMPTS, ANSWERS))


def served(settings: OffloadSettings) -> tuple[Counts, list[str]]:
    with engine(settings) as offloaded:
        answers = texts(offloaded.generate(PROMPTS, ANSWERS))
        residency = offloaded.core.decoder.residency
        assert residency is not None
        return residency.counts, answers


@pytest.mark.parametrize(("policy", "budget"), [("lfu-decay", 0.5), ("lru", 0.25)])
def test_on_demand_every_count_is_the_same(
    recorded: tuple[Script, list[str]], policy: PolicyName, budget: float
) -> None:
    script, answers = recorded
    settings = OffloadSettings(budget=Fraction(budget), policy=policy, prefetch="none", warm=False)
    counts, said = served(settings)
    expected = replay(script, Arms(script).of(settings), DEVICE).counts
    assert said == answers
    assert counts.steps == expected.steps == len(script.demands)
    for name in ("demanded", "hits", "covered", "misses", "prefetched", "reads", "read_bytes"):
        assert getattr(counts, name) == getattr(expected, name), name


def test_with_the_next_gate_the_hit_ratio_is_within_two_points(recorded: tuple[Script, list[str]]) -> None:
    script, answers = recorded
    settings = OffloadSettings(budget=Fraction(0.5), warm=False)
    counts, said = served(settings)
    expected = replay(script, Arms(script).of(settings), DEVICE).counts
    assert said == answers
    assert counts.demanded == expected.demanded
    assert abs(counts.hit_ratio - expected.hit_ratio) < 0.02


def test_a_trial_of_reading_in_advance_is_replayed_as_the_engine_made_it(
    recorded: tuple[Script, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which counts on no clock: what follows from a trial is in the engine's counts, be it whatever it is."""
    monkeypatch.setattr(speculation, "STEPS", 1)
    monkeypatch.setattr(opening, "SpeculationSwitch", partial(SpeculationSwitch, state=Trying(Resting())))
    script, answers = recorded
    settings = OffloadSettings(budget=Fraction(0.25), warm=False)
    counts, said = served(settings)
    assert said == answers
    assert counts.turns[:3] == (2, 6, 10)
    arm = Arms(script).of(settings)
    expected = replay(script, arm, DEVICE, counts.turns).counts
    assert counts.demanded == expected.demanded
    assert abs(counts.hit_ratio - expected.hit_ratio) < 0.02
    assert replay(script, arm, DEVICE).counts.hit_ratio > expected.hit_ratio
