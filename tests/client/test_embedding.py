"""`embed` of both clients."""

import asyncio
from typing import Any

import numpy as np
import pytest

from triptych.client import AsyncClient, Client, InvalidArgument
from triptych.client.testing import FakeServer


def test_each_text_has_a_row_in_both_clients() -> None:
    with FakeServer() as cluster:
        with Client(cluster.address) as client:
            found = client.embed(["ab", "", "b"])

        async def again() -> Any:
            async with AsyncClient(cluster.address) as client:
                return await client.embed([[97, 98], [], [98]])

        same = asyncio.run(again())
    assert found.vectors.shape == (3, 8)
    assert found.vectors.dtype == np.float32
    assert found.vectors[0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(found.vectors, same.vectors)
    assert (len(found), found.token_counts, found.usage.prompt_tokens) == (3, (2, 0, 1), 3)
    assert not found.vectors.flags.writeable


def test_a_single_text_and_options() -> None:
    with FakeServer() as cluster, Client(cluster.address) as client:
        found = client.embed("abc", dimensions=2, request_id="mine")
        assert (found.vectors.tolist(), found.request_id) == ([[1, 2]], "mine")
        for wrong in ([7], ["\ud800"], [["a"]]):
            with pytest.raises(InvalidArgument) as caught:
                client.embed(wrong)  # type: ignore[arg-type]
            assert caught.value.field.startswith("inputs")
        with pytest.raises(InvalidArgument):
            client.embed("a", dimensions=1 << 40)
