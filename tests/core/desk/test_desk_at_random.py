"""Whatever happens to workers and clients: books that balance after every event, whole answers, nothing left over."""

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.core.desk import Desk
from triptych.core.errors import Cancelled, Internal, TriptychError
from triptych.core.fleet.observe import HealthLimits
from triptych.core.generation import FinishReason
from triptych.core.plan import RoutingPolicy
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.record import Away

WORKERS = ("E1", "E2", "P1", "P2", "D1", "D2")
LIMIT = 3


class Story:
    """Draws what happens next, and keeps what clients have of each answer."""

    def __init__(self, scene: Any, random: Random) -> None:
        self.scene = scene
        self.random = random
        self.brought: dict[str, int] = {}
        scene.connect(*WORKERS)

    def next(self) -> None:
        scene, random = self.scene, self.random
        kind = random.choices(["answer", "submit", "worker", "client", "time"], [60, 12, 10, 10, 8])[0]
        if kind == "answer" and scene.tasks:
            scene.answer(random.randrange(len(scene.tasks)))
        elif kind == "submit":
            self._submit()
        elif kind == "worker":
            self._worker(random.choice(WORKERS))
        elif kind == "client" and self.brought:
            self._client(random.choice(sorted(self.brought)))
        elif kind == "time":
            scene.tick(random.choice([0.1, 3.0, 6.0, 11.0]), silent=random.choice(["", "", *WORKERS]))
        self.check()

    def check(self) -> None:
        """The books agree, nobody is sent more than it takes, and what was heard is the beginning of the answer."""
        scene, desk = self.scene, self.scene.desk
        audit = desk.audit()
        assert audit.balanced
        assert audit.waiting == desk.waiting
        assert audit.running + audit.ended == desk.running + desk.awaiting_free
        for load in audit.booked.values():
            assert 0 < load.requests <= 2 * LIMIT  # beside as many as it may have, those it is being freed of
            assert min(load.tokens, load.patches) >= 0
        assert {holding.worker_id for holding in audit.holdings} <= scene.connected
        for name, first in self.brought.items():
            heard = scene.heard[name]
            assert heard == list(range(100 + first, 100 + first + len(heard)))
            assert len(scene.ends[name]) <= 1
            assert (scene.desk.named(name) is None) <= len(scene.ends[name])

    def finish(self) -> None:
        """Everybody is there again and does its work; clients leave with what they have."""
        scene = self.scene
        for worker in WORKERS:
            if worker not in scene.connected:
                scene.connect(worker)
        scene.desk.retain(())  # drains are forgotten, and with them whoever was drained
        for worker in WORKERS:
            scene.lose(worker)
            scene.connect(worker)
        for _ in range(100):
            scene.run()
            scene.tick(2.0)
            for name in self.brought:
                if (entry := scene.desk.named(name)) and not entry.running:
                    scene.tell(entry, ev.ClientLeft(None))
        assert scene.desk.audit().empty
        for name, first in self.brought.items():
            (end,) = scene.ends[name]
            if end is FinishReason.LENGTH:
                assert first + len(scene.heard[name]) == scene.lengths[name]
            else:
                assert isinstance(end, TriptychError)
        ends = [end for name in self.brought for end in scene.ends[name]]
        counters = scene.desk.counters
        assert counters.finished == ends.count(FinishReason.LENGTH)
        assert counters.cancelled == sum(isinstance(end, Cancelled) for end in ends)
        assert counters.finished + counters.cancelled + counters.failed == len(ends)
        assert counters.generated_tokens == sum(map(len, scene.heard.values()))

    def _submit(self) -> None:
        random, name = self.random, f"r{len(self.brought)}"
        length, linger = random.randint(1, 6), random.choice([0.0, 8.0])
        received = random.choice([None, None, (), (100,)]) if length > 1 else None
        terms = {"linger": linger, "deadline": random.choice([None, self.scene.now + 40.0]), "patience": 20.0}
        self.brought[name] = len(received or ())
        try:
            self.scene.submit(name, length, images=random.choice([0, 0, 1, 3]), received=received, **terms)
        except TriptychError:
            del self.brought[name]

    def _worker(self, worker: str) -> None:
        scene, random = self.scene, self.random
        what = random.randrange(5)
        if worker not in scene.connected:
            scene.connect(worker, restarted=random.random() < 0.5)
        elif what == 0:
            scene.lose(worker)
        elif what == 1:
            scene.perform(scene.desk.drain(worker, random.choice([0.0, 5.0]), scene.now))
        elif tasks := [task for task in scene.tasks if not isinstance(task.command, do.SendFree)]:
            task = random.choice(tasks)
            failed = ev.StageFailed(task.command.worker_id, task.command.epoch, Internal("a defect"))
            process = "" if what < 4 else "process 0"
            scene.say(task.command.worker_id, task.entry, failed, process)

    def _client(self, name: str) -> None:
        scene, random = self.scene, self.random
        if not (entry := scene.desk.named(name)):
            return
        if isinstance(entry.record.client, Away):
            have = random.randint(0, len(entry.answer))
            answered = tuple(entry.token_ids(have))
            assert scene.submit(name, scene.lengths[name], received=answered) is entry
        elif not entry.running:
            scene.tell(entry, ev.ClientLeft(None))
        else:
            gone = Cancelled("the client went away")
            scene.tell(entry, random.choice([ev.ClientLeft(gone), ev.ClientLeft(gone), ev.Abandoned(gone)]))


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_books_balance_and_answers_are_whole(scene: Any, random: Random) -> None:
    fresh = type(scene)(Desk(RoutingPolicy(max_requests_per_worker=LIMIT), HealthLimits(), first_serial=7))
    story = Story(fresh, random)
    for _ in range(80):
        story.next()
    story.finish()
