"""Router and controller end and come back while answers are written: the same workers go on with the same answers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


def test_another_router_and_controller_find_the_workers_and_the_clients_their_answers(
    tiny_llama: Path, oracle: Any, ask: Callable[..., Any], eventually: Any
) -> None:
    runtime = InProcessRuntime()
    questions = oracle.questions(tiny_llama, ask, 6, TOKENS)
    with ThreadPoolExecutor(6) as threads, ExitStack() as stack:
        first = CrashingCluster(make(tiny_llama), make_runtime=lambda *_: runtime)
        address = stack.enter_context(first).address
        client = stack.enter_context(Client(address, timeout=60))
        before = incarnations(client)
        answers = [threads.submit(client.generate, prompt, **GREEDY, max_tokens=TOKENS) for prompt, _ in questions]
        eventually(lambda: client.status().router.generated_tokens > 100)
        first.crash()
        assert sum(answer.done() for answer in answers) < len(questions)
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
    cluster = LocalCluster(make(tiny_llama), make_runtime=InProcessRuntime)
    with ThreadPoolExecutor(6) as threads, cluster as running, Client(running.address, timeout=60) as client:
        before = incarnations(client)
        answers = [threads.submit(client.generate, prompt, **GREEDY, max_tokens=TOKENS) for prompt, _ in questions]
        eventually(lambda: client.status().router.generated_tokens > 100)
        cluster.restart_router()
        assert [answer.result().token_ids for answer in answers] == [tokens for _, tokens in questions]
        assert incarnations(client) == before
        assert client.status().router.uptime_ms < 10_000
        client.scale("decode", 3)
        eventually(lambda: [w.health for w in client.status().workers] == ["healthy"] * 4)
