"""What is checked on the driver's machine depends on whether the workers will be there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.config.spec import ClusterSpec
from triptych.controller import cluster
from triptych.core.errors import FailedPrecondition, Unavailable
from triptych.models.files import ModelFiles


def no_runtime(address: str | None, cpus: float) -> Any:
    raise Unavailable(f"no Ray at {address}")


@pytest.mark.parametrize(("address", "error"), [(None, FailedPrecondition), ("elsewhere:6379", Unavailable)])
async def test_memory_of_this_machine_bounds_workers_of_this_machine_only(
    address: str | None, error: type[Exception], monkeypatch: pytest.MonkeyPatch, model_spec: Callable[..., Any]
) -> None:
    files = ModelFiles("tiny", Path("/nowhere"), "safetensors")
    monkeypatch.setattr(cluster, "resolve", lambda model, progress: files)
    monkeypatch.setattr(cluster, "read_either", lambda files: model_spec())
    spec = ClusterSpec(
        model="tiny", kv_cache={"memory": "1TiB"}, router={"grpc": "127.0.0.1:0"}, ray={"address": address}
    )
    with pytest.raises(error):
        async with cluster.run_cluster(spec, make_runtime=no_runtime):
            raise AssertionError("it runs")
