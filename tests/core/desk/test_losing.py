"""Workers that go: requests are begun anew elsewhere, or wait in line, and no process speaks for the one after it."""

from dataclasses import replace
from typing import Any

import pytest

from triptych.core.errors import DeadlineExceeded, Internal, Unavailable
from triptych.core.fleet import Health, Report
from triptych.core.fleet.breaker import TRUSTED, Probing
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.request import events as ev
from triptych.core.request import states as st

STAGES = (st.Encoding, st.Reserving, st.Prefilling, st.Decoding)
NEEDED = [
    *((stage, worker) for stage in STAGES[:3] for worker in ("E1", "P1", "D1")),
    (st.Decoding, "D1"),
]


@pytest.mark.parametrize(("stage", "worker"), NEEDED, ids=lambda value: getattr(value, "__name__", value))
def test_whatever_is_lost_whenever_the_answer_is_whole(scene: Any, stage: type, worker: str) -> None:
    scene.connect("D1", "D2", "E1", "E2", "P1", "P2")
    entry = scene.submit("r", images=1)
    scene.run(stage, entry=entry)
    assert isinstance(entry.record.state, stage)
    emitted, held = len(entry.answer), sorted(entry.record.holders)
    scene.commands()
    scene.lose(worker)
    frees = [f"free {other}#0" for other, _ in held if other != worker]
    encoder = "E2" if worker == "E1" else "E1"
    assert scene.commands() == [*frees, "place", f"encode {encoder}#1"]
    assert scene.desk.audit().balanced
    scene.run()
    assert scene.heard["r"] == [100, 101, 102, 103, 104]
    assert scene.ends["r"] == [FinishReason.LENGTH]
    assert scene.desk.audit().empty
    counters = scene.desk.counters
    replayed = 50 + emitted
    assert (counters.finished, counters.generated_tokens) == (1, 5)
    assert (counters.replays, counters.replayed_tokens) == (1, replayed)


def test_a_new_attempt_goes_on_after_the_tokens_that_the_client_has(scene: Any) -> None:
    scene.connect("D1", "D2", "P1")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    scene.answer()
    emitted = len(entry.answer)
    scene.commands()
    scene.lose("D1")
    scene.run()
    place, reserve, *rest = scene.commands()
    assert (emitted, place, reserve) == (2, "place", "reserve D2#1 after 2")
    assert rest == ["prefill P1#1 after 2", "decode D2#1 after 3", "free P1#1", "free D2#1"]


def test_while_there_is_no_worker_requests_wait_in_line(scene: Any) -> None:
    scene.connect("D1")
    entries = [scene.submit(name, patience=20.0) for name in "abc"]
    for entry in entries:
        scene.run(st.Decoding, entry=entry)
    scene.lose("D1")
    assert (scene.desk.waiting, scene.desk.audit().waiting, scene.desk.audit().booked) == (3, 3, {})
    scene.tick(19.0)
    scene.commands()
    scene.connect("D1")
    assert [line.split()[1] for line in scene.commands()] == ["D1#1"] * 3
    assert scene.desk.waiting == 0
    scene.run()
    assert [scene.ends[name] for name in "abc"] == [[FinishReason.LENGTH]] * 3
    assert scene.desk.audit().empty


def test_patience_and_deadlines_end_in_line_too(scene: Any) -> None:
    scene.connect("D1")
    scene.submit("patient", patience=20.0)
    scene.submit("urgent", patience=20.0, deadline=5.0)
    scene.lose("D1")
    scene.tick(4.9)
    assert scene.ends == {}
    scene.tick(0.2)
    assert [type(end) for end in scene.ends["urgent"]] == [DeadlineExceeded]
    scene.tick(15.0)
    assert [(type(end), str(end)) for end in scene.ends["patient"]] == [
        (Unavailable, "worker D1 was lost; try again")
    ]
    assert scene.desk.audit().empty
    assert scene.desk.counters.failed == 2


def test_silence_cuts_the_stream_and_moves_the_requests_in_one(scene: Any) -> None:
    scene.connect("D1", "D2")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    scene.tick(5.0, silent="D1")
    assert (scene.cut, scene.desk.fleet.workers["D1"].health) == ([], Health.SUSPECT)
    assert scene.submit("s").record.state.plan.decode == "D2"
    scene.commands()
    scene.tick(5.0, silent="D1")
    assert (scene.cut, scene.commands()) == (["D1"], ["place", "prefill D2#1 after 1"])
    scene.run()
    assert scene.heard["r"] == [100, 101, 102, 103, 104]


def test_a_process_that_comes_back_or_was_replaced_is_not_confused_with_the_one_before(scene: Any) -> None:
    scene.connect("D1")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    scene.lose("D1")
    tokens = ev.TokensArrived("D1", entry.record.key.epoch, 1, (GeneratedToken(9),), None)
    scene.say("D1", entry, tokens, "process 1")  # it is not connected
    scene.connect("D1")
    record = entry.record
    current = replace(tokens, epoch=record.key.epoch)
    scene.say("D1", entry, current, "process 1")
    scene.desk.hear("D1", "process 1", 1.0, Report(draining=True))
    assert entry.record is record
    assert scene.desk.fleet.workers["D1"].health is Health.HEALTHY
    assert scene.desk.fleet.workers["D1"].report == Report()
    scene.run()
    assert scene.heard["r"] == [100, 101, 102, 103, 104]


def test_tokens_of_an_attempt_that_is_over_are_not_delivered(scene: Any) -> None:
    scene.connect("D1")
    entry = scene.submit("r")
    scene.run(st.Decoding, entry=entry)
    old = entry.record.key.epoch
    scene.say("D1", entry, ev.StageFailed("D1", old, Internal("a defect")))
    for tokens in ((GeneratedToken(9),), (GeneratedToken(8),)):
        assert isinstance(entry.record.state, st.Prefilling)
        scene.say("D1", entry, ev.TokensArrived("D1", old, 1, tokens, FinishReason.LENGTH))
    scene.run()
    assert scene.heard["r"] == [100, 101, 102, 103, 104]
    assert scene.desk.find(entry.record.key) is None


def test_a_worker_that_keeps_failing_gets_a_pause_and_then_one_request_to_prove_itself(scene: Any) -> None:
    scene.connect("D1", "D2", "P1")
    for name in "abc":
        entry = scene.submit(name)
        worker = entry.record.state.plan.decode
        if worker == "D1":
            scene.say("D1", entry, ev.StageFailed("D1", entry.record.key.epoch, Internal("a defect")))
        scene.run()
    assert not scene.desk.fleet.workers["D1"].accepts(scene.now)
    assert scene.submit("d").record.state.plan.decode == "D2"
    scene.tick(2.0)
    probe = scene.submit("e")
    assert probe.record.state.plan.decode == "D1"
    assert isinstance(scene.desk.fleet.workers["D1"].breaker, Probing)
    assert scene.submit("f").record.state.plan.decode == "D2"
    scene.run()
    assert scene.desk.fleet.workers["D1"].breaker == TRUSTED


def test_a_new_attempt_proves_its_prefill_worker_as_well_as_a_first_one(scene: Any) -> None:
    scene.connect("P1", "D1", "D2")
    entry = scene.submit("r", length=99)
    scene.run(st.Decoding, entry=entry)
    for name in "abc":
        failing = scene.submit(name, max_failures=0)
        scene.run(st.Prefilling, entry=failing)
        scene.say("P1", failing, ev.StageFailed("P1", failing.record.key.epoch, Internal("a defect")))
    scene.tick(2.0)
    scene.lose(entry.record.state.plan.decode)
    scene.run(st.Prefilling, entry=entry)
    assert isinstance(scene.desk.fleet.workers["P1"].breaker, Probing)
    scene.run(st.Decoding, entry=entry)
    assert entry.running
    assert scene.desk.fleet.workers["P1"].breaker == TRUSTED
