"""builtin:smollm2-digits on 2E2P2D in float32, transfers in shared memory: each kind of worker has a second one."""

import operator
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_harness.certain import certain_questions
from fault_harness.cluster import eventually, running
from fault_harness.traps import Deed, Point
from fault_harness.trial import Trial, require_same, wait_until
from fault_harness.workload import Countdown, ask_all

from triptych.cli.demo.digits import held_out_digits
from triptych.client import Client

SETTINGS = """
model: builtin:smollm2-digits
layout: 2E2P2D
dtype: float32
context_length: 1024
kv_cache: {memory: 128MiB}
scheduler: {max_batch_tokens: 64, max_running: 16}
router: {grpc: "127.0.0.1:0"}
"""

pytestmark = pytest.mark.timeout(600)  # Ray starts, and models load, within the first test


@pytest.fixture(scope="module")
def trial(rng: random.Random, note: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    questions = certain_questions("builtin:smollm2-digits", rng, held_out_digits())
    with running(SETTINGS, tmp_path_factory.mktemp("six")) as cluster:
        yield Trial.begin(cluster, questions, note)


@pytest.mark.parametrize(
    ("worker_id", "point", "after"),
    [
        ("encode-0", Point.ENCODE, 0),
        ("prefill-0", Point.CHUNK, 1),
        ("decode-0", Point.COPY, 1),
        ("decode-1", Point.DECODE, 12),
        pytest.param("encode-1", Point.FETCH, 1, marks=pytest.mark.soak),
        pytest.param("prefill-1", Point.PULL, 1, marks=pytest.mark.soak),
        pytest.param("prefill-0", Point.SEND, 2, marks=pytest.mark.soak),
        pytest.param("decode-0", Point.CHUNK, 0, marks=pytest.mark.soak),
        pytest.param("decode-1", Point.PULL, 0, marks=pytest.mark.soak),
    ],
)
def test_a_worker_killed_at_work_costs_no_answer(trial: Trial, worker_id: str, point: Point, after: int) -> None:
    trial.under(f"kill -9 of {worker_id} {point}", worker_id, point, Deed.KILL, after=after)


def for_20_seconds(trial: Trial) -> Callable[[], None]:
    """Long enough for a router to give a worker up; one that cannot keep pace does so later."""
    client, before = trial.cluster.client, trial.cluster.client.status().router.replays
    taken_over = wait_until(lambda: client.status().router.replays > before, 120.0)

    def pause() -> None:
        threading.Event().wait(20.0)
        taken_over()

    return pause


def test_a_decode_worker_that_stood_still_for_20_seconds_is_fenced(trial: Trial) -> None:
    """Its requests have long been answered by the other one when it wakes up, in the middle of their old attempts."""
    name = f"decode-1 stopped for 20 s {Point.DECODE}"
    pid = trial.while_stopped(name, "decode-1", Point.DECODE, for_20_seconds(trial), after=12)
    assert trial.cluster.worker("decode-1").pid == pid


@pytest.mark.parametrize(
    ("worker_id", "point", "after"),
    [
        ("prefill-0", Point.SEND, 2),
        pytest.param("decode-0", Point.DECODE, 12, marks=pytest.mark.soak),
        pytest.param("decode-0", Point.COPY, 2, marks=pytest.mark.soak),
        pytest.param("encode-0", Point.ENCODE, 0, marks=pytest.mark.soak),
    ],
)
def test_a_worker_that_wakes_up_while_others_do_its_work_changes_nothing(
    trial: Trial, worker_id: str, point: Point, after: int
) -> None:
    client, before = trial.cluster.client, trial.cluster.client.status().router.replays
    taken_over = wait_until(lambda: client.status().router.replays > before, 120.0)
    name = f"{worker_id} stopped {point}, continued once its requests were begun anew"
    trial.while_stopped(name, worker_id, point, taken_over, after=after)


@pytest.mark.soak
def test_a_prefill_worker_that_stood_still_for_20_seconds_is_fenced(trial: Trial) -> None:
    name = f"prefill-1 stopped for 20 s {Point.CHUNK}"
    trial.while_stopped(name, "prefill-1", Point.CHUNK, for_20_seconds(trial), after=1)


@pytest.mark.parametrize(
    ("worker_id", "point", "deed"),
    [
        ("decode-0", Point.COPY, Deed.DAMAGE),
        ("decode-1", Point.COPY, Deed.TRUNCATE),
        ("prefill-0", Point.PULL, Deed.DAMAGE),
        pytest.param("prefill-1", Point.PULL, Deed.TRUNCATE, marks=pytest.mark.soak),
    ],
)
def test_a_damaged_transfer_is_made_again(trial: Trial, worker_id: str, point: Point, deed: Deed) -> None:
    assert trial.with_transfers(worker_id, point, deed, times=1) == 0


@pytest.mark.soak
@pytest.mark.parametrize(("worker_id", "point"), [("decode-0", Point.COPY), ("prefill-0", Point.PULL)])
def test_a_transfer_that_stays_damaged_costs_an_attempt_and_no_answer(
    trial: Trial, worker_id: str, point: Point
) -> None:
    """Twelve in a row: whichever chunks are hit, one of them three times."""
    assert trial.with_transfers(worker_id, point, Deed.DAMAGE, times=12) > 0


def test_clients_that_leave_do_not_disturb_the_others(trial: Trial, rng: random.Random) -> None:
    """A third of them goes: at once, at the first token, or in the middle."""
    leaving = {index: rng.choice([0, 1, 8, 20]) for index in rng.sample(range(len(trial.questions)), 5)}
    before = trial.cluster.client.status().router
    questions = [  # those who leave ask for far more than they wait for
        question.with_options(max_tokens=600) if index in leaving else question
        for index, question in enumerate(trial.questions)
    ]
    told = ask_all(trial.cluster.client, questions, leaving=leaving)
    staying = [index for index in range(len(told)) if index not in leaving]
    require_same([trial.undisturbed[i] for i in staying], [told[i] for i in staying])
    for index, tokens in leaving.items():
        assert told[index].error is None
        assert all(map(operator.eq, told[index].tokens, trial.undisturbed[index].tokens))
        assert len(told[index].tokens) >= tokens
    trial.cluster.require_idle()
    after = trial.cluster.client.status().router
    assert after.finished_requests == before.finished_requests + len(staying)
    begun = sum(tokens > 0 for tokens in leaving.values())
    assert begun <= after.cancelled_requests - before.cancelled_requests <= len(leaving)


@pytest.mark.parametrize("linger", [0.0, 20.0])
def test_clients_whose_connection_breaks_come_back_to_their_answers(
    trial: Trial, proxy_to: Any, linger: float
) -> None:
    with proxy_to(trial.cluster.client.address) as proxy, Client(proxy.address, timeout=240) as client:
        cut = Countdown(200, proxy.cut)
        questions = [question.with_options(linger=linger) for question in trial.questions]
        told = ask_all(client, questions, on_token=cut)
    assert cut.reached is not None
    require_same(trial.undisturbed, told)
    trial.finish(f"the connection of 16 clients cut, linger {linger:g} s", told, cut.reached, told)
    assert trial.cluster.client.status().router.resumed_requests > 0


def test_a_drained_worker_hands_its_answers_over(trial: Trial) -> None:
    """The last test: the worker that is drained is replaced by another of its name."""
    client, before = trial.cluster.client, trial.cluster.worker("decode-1")
    drain = Countdown(200, lambda: client.drain("decode-1", timeout=0.0))
    told = ask_all(client, trial.questions, on_token=drain)
    assert drain.reached is not None
    require_same(trial.undisturbed, told)
    eventually(lambda: len(client.status().workers) == 5, 120.0)
    assert client.scale("decode", 2).started == ("decode-1",)
    trial.finish("decode-1 drained with a timeout of 0, then another one added", told, drain.reached)
    assert trial.cluster.worker("decode-1").incarnation != before.incarnation
