"""builtin:smollm2-digits on 1E1P1D in float32, transfers over TCP, nothing cached: whoever dies has to come back."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fault_harness.certain import certain_questions
from fault_harness.cluster import running
from fault_harness.traps import Deed, Point
from fault_harness.trial import Trial

from triptych.cli.demo.digits import held_out_digits

SETTINGS = """
model: builtin:smollm2-digits
layout: 1E1P1D
dtype: float32
context_length: 1024
kv_cache: {memory: 192MiB, prefix_caching: false}
scheduler: {max_batch_tokens: 64, max_running: 16}
transfer: {backend: tcp}
router: {grpc: "127.0.0.1:0"}
"""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trial(rng: random.Random, note: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    questions = certain_questions("builtin:smollm2-digits", rng, held_out_digits())
    with running(SETTINGS, tmp_path_factory.mktemp("three")) as cluster:
        yield Trial.begin(cluster, questions, note)


@pytest.mark.parametrize(
    ("worker_id", "point", "after"),
    [
        ("encode-0", Point.ENCODE, 1),
        ("encode-0", Point.FETCH, 2),
        ("prefill-0", Point.CHUNK, 2),
        ("prefill-0", Point.SEND, 3),
        ("decode-0", Point.CHUNK, 1),
        ("decode-0", Point.COPY, 3),
        ("decode-0", Point.DECODE, 0),
        ("decode-0", Point.DECODE, 30),
    ],
)
def test_the_only_worker_of_its_kind_killed_at_work_costs_no_answer(
    trial: Trial, worker_id: str, point: Point, after: int
) -> None:
    again = " for some time" if after > 20 else ""
    trial.under(f"kill -9 of {worker_id}, the only one, {point}{again}", worker_id, point, Deed.KILL, after=after)


@pytest.mark.parametrize("point", [Point.SEND, Point.FETCH])
@pytest.mark.parametrize("deed", [Deed.DAMAGE, Deed.TRUNCATE])
def test_a_transfer_damaged_on_its_way_costs_no_answer(trial: Trial, point: Point, deed: Deed) -> None:
    worker_id = "prefill-0" if point is Point.SEND else "encode-0"
    trial.with_transfers(worker_id, point, deed, times=1)


@pytest.mark.parametrize(
    ("worker_id", "point", "deed", "times"),
    [
        # One after the other: the first chunk takes three of them.
        ("prefill-0", Point.SEND, Deed.DAMAGE, 6),
        ("prefill-0", Point.SEND, Deed.TRUNCATE, 6),
        # Eight pictures at once: one of them takes three. A torn one is not fetched again by the same attempt.
        ("encode-0", Point.FETCH, Deed.DAMAGE, 17),
        ("encode-0", Point.FETCH, Deed.TRUNCATE, 6),
    ],
)
def test_a_transfer_that_stays_damaged_costs_an_attempt_and_no_answer(
    trial: Trial, worker_id: str, point: Point, deed: Deed, times: int
) -> None:
    assert trial.with_transfers(worker_id, point, deed, times=times) > 0
