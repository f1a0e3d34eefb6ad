"""A worker is taken out: no new work at once, time to finish, and then its requests go on elsewhere."""

from typing import Any

import pytest

from triptych.core.errors import Unavailable
from triptych.core.fleet import Health, Report
from triptych.core.generation import FinishReason
from triptych.core.request import states as st


def test_a_draining_worker_gets_nothing_new_and_may_finish(scene: Any) -> None:
    scene.connect("D1", "D2")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    scene.perform(scene.desk.drain("D1", 30.0, scene.now))
    assert (scene.drained, scene.desk.fleet.workers["D1"].health) == (["D1"], Health.DRAINING)
    for name in "abc":
        assert scene.submit(name).record.state.plan.decode == "D2"
    scene.tick(29.9)
    assert scene.desk.requests() == {"D1": 1, "D2": 3}
    scene.run()
    assert scene.desk.requests() == {}
    assert scene.desk.counters.replays == 0


@pytest.mark.parametrize("stage", [st.Encoding, st.Reserving, st.Prefilling, st.Decoding], ids=lambda s: s.__name__)
def test_at_the_end_of_its_time_what_runs_there_goes_on_elsewhere(scene: Any, stage: type) -> None:
    scene.connect("D1", "D2", "E1", "P1")
    entry = scene.submit("r", images=1, max_failures=0)
    scene.run(stage, entry=entry)
    held = sorted(entry.record.holders)
    scene.perform(scene.desk.drain("D1", 30.0, scene.now))
    scene.commands()
    scene.tick(30.0)
    assert scene.commands() == [*(f"free {worker}#0" for worker, _ in held), "place", "encode E1#1"]
    assert entry.record.state.plan.decode == "D2"
    assert "D1" not in {worker for worker, _ in entry.record.holders}
    scene.run()
    assert (scene.heard["r"], scene.ends["r"]) == ([100, 101, 102, 103, 104], [FinishReason.LENGTH])
    assert (scene.desk.counters.replays, entry.record.past.failures) == (1, 0)
    assert scene.desk.requests() == {}
    assert scene.desk.audit().empty


def test_the_last_worker_may_be_drained_too_and_requests_stay_until_there_is_another(scene: Any) -> None:
    scene.connect("D1")
    entry = scene.submit("r", patience=20.0)
    scene.run(st.Decoding, entry=entry)
    scene.perform(scene.desk.drain("D1", 0.0, scene.now))
    scene.tick(0.1)
    assert isinstance(entry.record.state, st.Decoding)
    with pytest.raises(Unavailable):
        scene.submit("s")
    scene.connect("D2")
    scene.tick(0.1)
    assert (scene.desk.counters.replays, entry.record.state.plan.decode) == (1, "D2")
    scene.run()
    assert scene.ends["r"] == [FinishReason.LENGTH]


def test_a_draining_worker_that_reconnects_is_told_again_and_gets_nothing(scene: Any) -> None:
    scene.connect("D1", "D2")
    scene.perform(scene.desk.drain("D1", 30.0, scene.now))
    for name in "ab":
        scene.lose("D1")
        scene.connect("D1", restarted=False)
        assert scene.submit(name).record.state.plan.decode == "D2"
    assert scene.drained == ["D1", "D1", "D1"]
    scene.run()
    scene.tick(1.0)
    assert scene.desk.fleet.workers["D1"].health is Health.DRAINING


def test_a_new_process_in_the_place_of_a_drained_one_is_not_drained(scene: Any) -> None:
    """Else a controller that wants it back would start it for ever."""
    scene.connect("D1", "D2")
    scene.perform(scene.desk.drain("D1", 0.0, scene.now))
    scene.lose("D1")
    scene.connect("D1")
    scene.tick(1.0)
    assert scene.drained == ["D1"]
    assert scene.desk.fleet.workers["D1"].health is Health.HEALTHY


def test_a_drain_that_is_told_before_its_worker_connects_counts_for_the_first_process(scene: Any) -> None:
    scene.perform(scene.desk.drain("D1", 5.0, scene.now))
    scene.connect("D1", "D2")
    assert scene.desk.fleet.workers["D1"].health is Health.DRAINING
    scene.lose("D1")
    scene.connect("D1")
    assert scene.desk.fleet.workers["D1"].health is Health.HEALTHY


def test_a_drain_is_forgotten_with_the_placement_of_its_worker(scene: Any) -> None:
    scene.connect("D1", "D2")
    scene.perform(scene.desk.drain("D1", 0.0, scene.now))
    scene.lose("D1")
    scene.desk.retain(["D2"])
    scene.connect("D1")
    assert scene.drained == ["D1"]
    assert scene.submit("r").record.state.plan.decode == "D1"
    scene.tick(1.0)
    assert scene.desk.requests() == {"D1": 1}


def test_a_worker_may_refuse_new_work_by_itself(scene: Any) -> None:
    scene.connect("D1", "D2")
    scene.desk.hear("D1", "process 1", 0.0, Report(draining=True))
    assert scene.submit("r").record.state.plan.decode == "D2"
