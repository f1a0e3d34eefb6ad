"""What operators ask a router for is passed on to whoever can do it."""

import asyncio
from typing import Any

import grpc
import pytest

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.client import FailedPrecondition, NotFound, Scaling, Stage, Unimplemented
from triptych.stage.v1 import stage_pb2


class Operator:
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def drain(self, worker_id: str, timeout: float | None) -> None:  # noqa: ASYNC109 - the requests', not ours
        self.asked.append((worker_id, timeout))
        if worker_id == "decode-9":
            raise NotFound("there is no worker 'decode-9'", field="worker_id")

    async def scale(self, stage: Stage, replicas: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self.asked.append((stage, replicas))
        return ("decode-1",), ("prefill-0",)


async def test_drain_and_scale_reach_the_controller(open_door: Any) -> None:
    door, operator = await open_door("decode-0"), Operator()
    door.router.operate(operator)
    await door.client.drain("decode-0")
    await door.client.drain("decode-0", timeout=1.25)
    with pytest.raises(NotFound, match="no worker 'decode-9'") as caught:
        await door.client.drain("decode-9", timeout=0)
    assert caught.value.field == "worker_id"
    assert await door.client.scale("decode", 2) == Scaling(("decode-1",), ("prefill-0",))
    assert operator.asked == [("decode-0", None), ("decode-0", 1.25), ("decode-9", 0.0), (Stage.DECODE, 2)]


async def test_an_unknown_stage_is_refused(open_door: Any) -> None:
    door = await open_door("decode-0")
    door.router.operate(Operator())
    async with grpc.aio.insecure_channel(door.router.address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ScaleStage(admin_pb2.ScaleStageRequest(replicas=2))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_without_a_controller_workers_are_what_they_are(open_door: Any) -> None:
    door = await open_door("decode-0")
    with pytest.raises(Unimplemented, match="no controller"):
        await door.client.drain("decode-0")
    with pytest.raises(Unimplemented, match="no controller"):
        await door.client.scale("decode", 2)


async def test_workers_that_divide_experts_are_told_to_move_them(open_door: Any) -> None:
    door = await open_door("prefill-0", "decode-0", "decode-1")
    with pytest.raises(FailedPrecondition, match="no worker divides experts"):
        await door.client.balance_experts()
    layers = [stage_pb2.LayerBalance(layer=2, now=0.5)]
    report = stage_pb2.LoadReport(experts=stage_pb2.ExpertBalance(layers=layers, commits=3))
    for worker_id in ("decode-0", "decode-1"):
        door.workers[worker_id].say(stage_pb2.ConnectResponse(load_report=report))
    async with asyncio.timeout(60):
        while [w.experts is not None for w in (await door.client.status()).workers] != [False, True, True]:
            pass
    assert (await door.client.status()).workers[1].experts.layers[0].now == 0.5
    assert await door.client.balance_experts() == ("decode-0", "decode-1")
    assert await door.client.balance_experts("decode-1") == ("decode-1",)
    await door.workers["decode-0"].wait_for("balance_experts")
    await door.workers["decode-1"].wait_for("balance_experts", 2)
    with pytest.raises(FailedPrecondition, match="prefill-0 has no experts"):
        await door.client.balance_experts("prefill-0")
    with pytest.raises(NotFound, match="no worker 'decode-9'"):
        await door.client.balance_experts("decode-9")
