"""Draining and scaling a fake cluster with both clients."""

import pytest

from triptych.client import AsyncClient, Client, FailedPrecondition, InvalidArgument, NotFound, Scaling
from triptych.client.testing import FakeServer


def health(client: Client) -> dict[str, str]:
    return {worker.worker_id: worker.health for worker in client.status().workers}


def test_a_stage_is_scaled_up_and_a_worker_drained(client: Client) -> None:
    assert client.scale("decode", 3) == Scaling(("decode-1", "decode-2"), ())
    assert health(client)["decode-2"] == "starting"
    assert health(client)["decode-2"] == "healthy"
    client.drain("decode-0", timeout=1.5)
    assert health(client)["decode-0"] == "draining"
    assert "decode-0" not in health(client)
    assert client.scale("decode", 1) == Scaling((), ("decode-2",))


def test_what_cannot_be_done_is_a_typed_error(client: Client) -> None:
    with pytest.raises(NotFound, match="there is no worker 'decode-7'"):
        client.drain("decode-7")
    with pytest.raises(FailedPrecondition, match="decode-0 is the last worker that can decode"):
        client.drain("decode-0")
    with pytest.raises(InvalidArgument, match="stage must be encode, prefill or decode, got 'paint'"):
        client.scale("paint", 1)
    for replicas in (-1, 1025, 2**40):
        with pytest.raises(InvalidArgument, match="replicas"):
            client.scale("decode", replicas)
    for timeout in (-1.0, float("nan"), float("inf"), 1e12):
        with pytest.raises(InvalidArgument, match="timeout"):
            client.drain("decode-0", timeout=timeout)


async def test_the_asyncio_client_does_the_same() -> None:
    with FakeServer() as server:
        async with AsyncClient(server.address) as client:
            assert await client.scale("prefill", 0) == Scaling((), ("prefill-0",))
            assert await client.scale("decode", 2) == Scaling(("decode-1",), ())
            await client.drain("decode-1")
            with pytest.raises(NotFound):
                await client.drain("decode-9")
