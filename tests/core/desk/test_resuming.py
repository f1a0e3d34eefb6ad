"""A client that comes back, to the router that it left or to another one; and the ids that requests go by."""

from typing import Any

import pytest

from triptych.core.errors import AlreadyExists, Cancelled, InvalidArgument, ResourceExhausted, Unavailable
from triptych.core.generation import FinishReason
from triptych.core.request import events as ev
from triptych.core.request import states as st
from triptych.core.request.record import Away, Present

LEFT = ev.ClientLeft(Cancelled("the client went away"))
DIGEST = b"prompt and sampling"


def started(scene: Any, **more: object) -> Any:
    """A request of five tokens, two of which are there."""
    scene.connect("D1")
    entry = scene.submit("r", linger=10.0, digest=DIGEST, **more)
    scene.run(st.Decoding, entry=entry)
    scene.answer()
    assert entry.token_ids(9) == [100, 101]
    return entry


def test_it_goes_on_meanwhile_and_the_client_is_attached_again(scene: Any) -> None:
    entry = started(scene)
    scene.tell(entry, LEFT)
    scene.answer()
    assert scene.submit("r", digest=DIGEST, received=(100,)) is entry
    assert entry.token_ids(9) == [100, 101, 102]
    scene.tick(60.0)
    scene.run()
    assert scene.ends["r"] == [FinishReason.LENGTH]
    scene.tell(entry, ev.ClientLeft(None))
    assert (scene.desk.counters.resumed, scene.desk.counters.finished) == (1, 1)
    assert scene.desk.audit().empty


def test_an_answer_that_was_finished_meanwhile_is_kept_for_a_while(scene: Any) -> None:
    entry = started(scene)
    scene.tell(entry, LEFT)
    scene.run()
    assert (entry.outcome, scene.desk.running) == (FinishReason.LENGTH, 1)
    scene.tick(9.9)
    assert scene.submit("r", digest=DIGEST, received=(100, 101), linger=10.0) is entry
    scene.tell(entry, LEFT)
    scene.tick(9.9)
    assert scene.desk.named("r") is entry
    scene.tick(0.2)
    assert scene.desk.named("r") is None
    assert scene.desk.audit().empty


def test_who_is_away_for_too_long_is_not_computed_for(scene: Any) -> None:
    entry = started(scene)
    scene.tell(entry, LEFT)
    scene.tick(9.9)
    assert entry.running
    scene.tick(0.2)
    assert isinstance(entry.record.state, st.Failed)
    assert (scene.desk.counters.cancelled, scene.desk.running, scene.desk.awaiting_free) == (1, 0, 1)
    scene.run()
    assert scene.desk.awaiting_free == 0


def test_without_an_agreement_a_request_ends_with_its_connection(scene: Any) -> None:
    scene.connect("D1")
    entry = scene.submit("r")
    scene.tell(entry, LEFT)
    assert [type(end) for end in scene.ends["r"]] == [Cancelled]
    assert scene.desk.named("r") is None


@pytest.mark.parametrize("received", [(101,), (100, 101, 102, 103), (100, 101, 9)])
def test_tokens_that_are_not_of_the_answer_are_refused(scene: Any, received: tuple[int, ...]) -> None:
    entry = started(scene)
    scene.tell(entry, LEFT)
    with pytest.raises(InvalidArgument) as refusal:
        scene.submit("r", digest=DIGEST, received=received)
    assert refusal.value.field == "resume.received_token_ids"
    assert entry.record.client == Away(0.0)
    scene.submit("r", digest=DIGEST, received=())
    assert entry.record.client == Present()


def test_an_id_stands_for_one_request(scene: Any) -> None:
    entry = started(scene)
    for more in ({"digest": DIGEST}, {"digest": b"another", "received": (100,)}):
        with pytest.raises(AlreadyExists) as refusal:
            scene.submit("r", **more)
        assert refusal.value.field == "request_id"
    scene.tell(entry, ev.Abandoned(Cancelled("by an operator")))
    scene.tell(entry, ev.ClientLeft(None))
    again = scene.submit("r", digest=b"another")
    assert again.record.key.epoch >> 8 == (entry.record.key.epoch >> 8) + 1
    assert scene.desk.find(entry.record.key) is entry  # D1 still holds something for it
    scene.run()
    assert (scene.desk.find(entry.record.key), again.outcome) == (None, FinishReason.LENGTH)


def test_another_router_goes_on_after_what_the_client_has(scene: Any) -> None:
    scene.connect("D1", "P1")
    entry = scene.submit("r", digest=DIGEST, received=(100, 101))
    assert scene.commands() == ["reserve D1#0 after 2"]
    scene.run()
    assert scene.commands() == ["prefill P1#0 after 2", "decode D1#0 after 3", "free P1#0", "free D1#0"]
    assert scene.heard["r"] == [102, 103, 104]
    assert entry.token_ids(9) == [100, 101, 102, 103, 104]
    counters = scene.desk.counters
    assert (counters.resumed, counters.replays, counters.generated_tokens) == (1, 0, 3)


def test_a_router_that_was_just_started_lets_a_client_that_comes_back_wait_for_its_workers(scene: Any) -> None:
    scene.submit("r", received=(100,), patience=20.0)
    with pytest.raises(Unavailable):
        scene.submit("s")
    assert (scene.desk.waiting, scene.desk.counters.refused) == (1, 1)
    scene.tick(19.0)
    scene.connect("D1")
    scene.run()
    assert (scene.heard["r"], scene.ends["r"]) == ([101, 102, 103, 104], [FinishReason.LENGTH])


def test_a_client_that_has_all_tokens_is_told_the_end_without_a_worker(scene: Any) -> None:
    scene.submit("r", received=(100, 101), complete=FinishReason.STOP)
    assert (scene.ends["r"], scene.sent, scene.heard["r"]) == ([FinishReason.STOP], [], [])
    assert scene.desk.audit().empty
    assert (scene.desk.counters.resumed, scene.desk.counters.finished) == (1, 1)


def test_a_full_desk_refuses_who_is_new_and_keeps_who_comes_back(scene: Any) -> None:
    scene.connect("D1")
    for number in range(8):
        scene.submit(f"r{number}")
    with pytest.raises(ResourceExhausted):
        scene.submit("new")
    scene.submit("old", received=(100,))
    assert (scene.desk.counters.refused, scene.desk.waiting) == (1, 1)
    scene.run()
    assert scene.ends["old"] == [FinishReason.LENGTH]
    assert scene.desk.audit().empty


def test_a_full_desk_keeps_another_answer_to_a_request_that_it_let_in(scene: Any) -> None:
    scene.connect("D1")
    for number in range(8):
        scene.submit(f"r{number}")
    scene.submit("r0#1", follows=True)
    assert (scene.desk.counters.refused, scene.desk.waiting, scene.desk.counters.resumed) == (0, 1, 0)
    scene.run()
    assert scene.ends["r0#1"] == [FinishReason.LENGTH]
    assert scene.desk.audit().empty
