"""The line of requests that lost their workers: who comes after it stays behind it, and it costs little to keep."""

from typing import Any

import pytest

from triptych.core.desk import Desk, requests
from triptych.core.errors import Cancelled, DataLoss, ResourceExhausted
from triptych.core.fleet.observe import HealthLimits
from triptych.core.generation import FinishReason
from triptych.core.plan import RoutingPolicy
from triptych.core.request import events as ev
from triptych.core.request import states as st
from triptych.core.routing import choose


@pytest.fixture
def full_scene(scene: Any) -> Any:
    """Each worker takes one request."""
    scene.desk = Desk(RoutingPolicy(max_requests_per_worker=1), HealthLimits(), first_serial=7)
    return scene


def test_room_goes_to_who_waits_before_it_goes_to_who_comes(full_scene: Any) -> None:
    scene = full_scene
    scene.connect("D1", "D2")
    lost, other = scene.submit("lost"), scene.submit("other")
    scene.run(st.Decoding, entry=lost)
    scene.run(st.Decoding, entry=other)
    scene.lose(lost.record.state.plan.decode)
    assert isinstance(lost.record.state, st.Queued)
    while other.running:
        scene.answer()
    with pytest.raises(ResourceExhausted):  # the worker has not given back what it held yet
        scene.submit("late")
    scene.answer()
    assert isinstance(lost.record.state, st.Prefilling)
    with pytest.raises(ResourceExhausted):
        scene.submit("late")


def test_a_line_of_many_is_asked_for_once(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.connect("D1")
    for number in range(8):
        scene.submit(f"r{number}")
    asked = []

    def counting(*arguments: Any) -> Any:
        asked.append(1)
        return choose(*arguments)

    monkeypatch.setattr(requests, "choose", counting)
    scene.lose("D1")
    assert (scene.desk.waiting, len(asked)) == (8, 1)


def test_who_finds_no_room_elsewhere_stays_on_a_drained_worker(full_scene: Any) -> None:
    scene = full_scene
    scene.connect("D1", "D2")
    moving, other = scene.submit("moving", length=99), scene.submit("other")
    scene.run(st.Decoding, entry=moving)
    scene.run(st.Decoding, entry=other)
    drained = moving.record.state.plan.decode
    scene.perform(scene.desk.drain(drained, 1.0, scene.now))
    scene.tick(5.0)
    assert (moving.record.state.plan.decode, scene.desk.counters.replays) == (drained, 0)
    while other.running or other.record.freeing:
        scene.answer()
    scene.tick(0.1)
    assert scene.desk.counters.replays == 1
    assert moving.record.state.plan.decode != drained


def test_a_worker_that_acknowledges_no_free_does_not_look_idle(full_scene: Any) -> None:
    scene = full_scene
    scene.connect("D1")
    entry = scene.submit("r")
    scene.tell(entry, ev.Abandoned(Cancelled("enough")))
    with pytest.raises(ResourceExhausted):
        scene.submit("s")


def test_a_request_that_kills_its_workers_is_not_forgiven_for_a_token(scene: Any) -> None:
    scene.connect("D1", "D2")
    entry = scene.submit("r", length=300, max_failures=3)
    for _ in range(4):
        scene.run(st.Decoding, entry=entry)
        scene.answer()
        worker = entry.record.state.plan.decode
        scene.lose(worker)
        scene.connect(worker)
    assert isinstance(entry.record.state, st.Failed)


def test_a_router_that_stood_still_does_not_hold_it_against_its_workers(scene: Any) -> None:
    scene.connect("D1", "P1")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    scene.tick(0.1)
    scene.now += 30.0
    scene.perform(scene.desk.tick(scene.now))
    assert (scene.cut, scene.desk.counters.replays) == ([], 0)
    scene.tick(9.0, silent="P1")
    assert scene.cut == ["P1"]  # which is indeed silent
    scene.run()
    assert scene.ends["r"] == [FinishReason.LENGTH]


def test_a_full_worker_is_asked_again_when_it_said(scene: Any) -> None:
    scene.connect("D1", "E1")
    entry = scene.submit("r", images=1)
    full = ResourceExhausted("1024 images wait", retry_after=1.0)
    scene.say("E1", entry, ev.StageFailed("E1", entry.record.key.epoch, full))
    scene.tick(0.5)
    assert isinstance(entry.record.state, st.Queued)
    scene.tick(1.0)
    scene.run()
    assert scene.ends["r"] == [FinishReason.LENGTH]


def test_both_ends_of_a_way_that_failed_are_avoided(scene: Any) -> None:
    """Who reports that KV cannot be moved is as often the victim: the next attempt must not meet the other again."""
    scene.connect("P1", "P2", "D1", "D2")
    entry = scene.submit("r")
    scene.run(st.Prefilling, entry=entry)
    plan = entry.record.state.plan
    scene.say(plan.prefill, entry, ev.StageFailed(plan.prefill, entry.record.key.epoch, DataLoss("torn")))
    scene.run(st.Prefilling, entry=entry)
    again = entry.record.state.plan
    assert not {again.prefill, again.decode} & {plan.prefill, plan.decode}


def test_an_answer_that_gets_on_has_its_retry_budget_back(scene: Any) -> None:
    scene.connect("D1", "D2")
    entry = scene.submit("r", length=400, max_failures=1)
    for attempt in range(1, 6):
        while entry.record.emitted < attempt * 70:
            scene.answer()
        worker = entry.record.state.plan.decode
        scene.lose(worker)
        scene.connect(worker)
    scene.run()
    assert scene.ends["r"] == [FinishReason.LENGTH]
    assert scene.heard["r"] == list(range(100, 500))
