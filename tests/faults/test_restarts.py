"""builtin:smollm2 in float32: `triptych serve`, router and controller in one, killed and started again."""

import random
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_harness.certain import certain_questions
from fault_harness.cluster import eventually, held, wait_ready
from fault_harness.recovery import Recovery
from fault_harness.serving import Serve, ray_head
from fault_harness.trial import recovery_of, require_same, undisturbed_answers
from fault_harness.workload import Countdown, Question, ask_all

from triptych.client import Client

SETTINGS = """
model: builtin:smollm2
layout: 1P2D
dtype: float32
context_length: 1024
kv_cache: {memory: 128MiB}
scheduler: {max_batch_tokens: 64, max_running: 16}
"""

pytestmark = pytest.mark.timeout(600)

Note = Callable[[Recovery], None]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(SETTINGS)
    return file


def restart_under_load(name: str, serve: Serve, questions: list[Question], note: Note) -> None:
    """Sixteen streams; SIGKILL once they have 150 tokens together, then the same command again."""
    with Client(serve.address, timeout=240, reconnect=120) as client, ThreadPoolExecutor(1) as aside:
        undisturbed = undisturbed_answers(client, questions)
        killed = threading.Event()

        def kill() -> None:
            serve.kill()
            killed.set()

        countdown = Countdown(150, kill)
        asking = aside.submit(ask_all, client, questions, on_token=countdown)
        assert killed.wait(240)
        moment = countdown.reached
        assert moment is not None
        serve.start()
        ready = time.monotonic() - moment
        told = asking.result()
        require_same(undisturbed, told)
        wait_ready(client)
        eventually(lambda: not held(client), 120.0, lambda: held(client))
        hit = [t for t in told if t.next_after(moment) is not None]
        note(recovery_of(name, undisturbed, told, hit, moment, ready))


def test_a_new_router_and_controller_take_over_the_workers_of_the_old(
    settings: Path, rng: random.Random, note: Note
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray") as folder, ray_head(Path(folder)) as ray_address:
        serve = Serve(["--config", str(settings), "--ray-address", ray_address])
        try:
            serve.start()
            before = workers(serve)
            restart_under_load(
                "kill -9 of `triptych serve`, started again; Ray and workers live on",
                serve,
                certain_questions("builtin:smollm2", rng, ()),
                note,
            )
            assert workers(serve) == before
        finally:
            serve.stop()


@pytest.mark.soak
def test_a_cluster_that_is_started_again_goes_on_with_the_answers(
    settings: Path, rng: random.Random, note: Note
) -> None:
    """Ray and the workers have ended with the process that started them."""
    serve = Serve(["--config", str(settings)])
    try:
        serve.start()
        before = workers(serve)
        restart_under_load(
            "kill -9 of `triptych serve`, started again; Ray and workers die with it",
            serve,
            certain_questions("builtin:smollm2", rng, ()),
            note,
        )
        assert not workers(serve) & before
    finally:
        serve.stop()


def workers(serve: Serve) -> set[tuple[str, int, str]]:
    """Who works: names, processes, incarnations."""
    with Client(serve.address, timeout=60) as client:
        return {(worker.worker_id, worker.pid, worker.incarnation) for worker in client.status().workers}
