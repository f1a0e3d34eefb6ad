"""Router and controller end and come back while answers are written: the same workers go on with the same answers."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.brakes import Brake
from triptych.client import Client
from triptych.config.load import make_spec
from triptych.controller.local import LocalCluster
from triptych.controller.testing import InProcessRuntime, crash

GREEDY = {"temperature": 0.0, "ignore_eos": True}
TOKENS = 200


def incarnations(client: Client) -> dict[str, str]:
    return {worker.worker_id: worker.incarnation for worker in client.status().workers}


class CrashingCluster(LocalCluster):
    """One whose router and controller can be gone as if their process had been killed; the workers live."""

    def crash(self) -> None:
        asyncio.run_coroutine_threadsafe(self._crash(), self._loop).result()

    async def _crash(self) -> None:
        cluster = self._running.result()
        await crash(cluster._controller)
        await cluster._router.stop(0)


def make(model: Path, address: str = "127.0.0.1:0") -> Any:
    return make_spec(
        {
            "model": str(model),
            "layout": "1P2D",
            "dtype": "float32",
            "router.grpc": address,
            "kv_cache.memory": "4MiB",
            "kv_cache.block_size": 4,
        }
    )


@contextmanager
def in_the_middle(
    runtime: InProcessRuntime, client: Client, questions: list[Any], eventually: Any
) -> Iterator[list[Future[Any]]]:
    """Asks, and gives the answers, all of which stand still at the same place while the context is open."""
    cores = [runtime.actors[name].host.panel.decoding.stage.core for name in ("decode-0", "decode-1")]
    brakes = [Brake(core) for core in cores]
    with ThreadPoolExecutor(len(questions)) as threads:
        answers = [threads.submit(client.generate, prompt, **GREEDY, max_tokens=TOKENS) for prompt, _ in questions]
        eventually(lambda: sum(core.scheduler.waiting + core.scheduler.running for core in cores) == len(questions))
        for brake in brakes:
            brake.allow(TOKENS // 5)
        eventually(lambda: client.status().router.generated_tokens > len(questions) * TOKENS // 10)
        yield answers
        for brake in brakes:
            brake.release()


def test_another_router_and_controller_find_the_workers_and_the_clients_their_answers(
    tiny_llama: Path, oracle: Any, ask: Callable[..., Any], eventually: Any
) -> None:
    runtime = InProcessRuntime()
    questions = oracle.questions(tiny_llama, ask, 6, TOKENS)
    with ExitStack() as stack:
        first = CrashingCluster(make(tiny_llama), make_runtime=lambda *_: runtime)
        address = stack.enter_context(first).address
        client = stack.enter_context(Client(address, timeout=240))
        before = incarnations(client)
        with in_the_middle(runtime, client, questions, eventually) as answers:
            first.crash()
            assert not any(answer.done() for answer in answers)
            stack.enter_context(LocalCluster(make(tiny_llama, address), make_runtime=lambda *_: runtime))
        assert incarnations(client) == before
        assert [answer.result().token_ids for answer in answers] == [tokens for _, tokens in questions]
        assert client.status().router.resumed_requests
        eventually(lambda: all(not actor.host.panel.report().held_blocks for actor in runtime.actors.values()))
    assert all(actor.host is None for actor in runtime.actors.values())


def test_another_router_takes_the_place_of_one_while_the_controller_goes_on(
    tiny_llama: Path, oracle: Any, ask: Callable[..., Any], eventually: Any
) -> None:
    questions = oracle.questions(tiny_llama, ask, 6, TOKENS)
    runtime = InProcessRuntime()
    cluster = LocalCluster(make(tiny_llama), make_runtime=lambda *_: runtime)
    with cluster as running, Client(running.address, timeout=240) as client:
        before = incarnations(client)
        with in_the_middle(runtime, client, questions, eventually) as answers:
            moment = time.monotonic()
            cluster.restart_router()
        assert [answer.result().token_ids for answer in answers] == [tokens for _, tokens in questions]
        assert incarnations(client) == before
        assert client.status().router.uptime_ms <= 1000 * (time.monotonic() - moment)
        client.scale("decode", 3)
        eventually(lambda: [w.health for w in client.status().workers] == ["healthy"] * 4)
