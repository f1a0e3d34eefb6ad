"""What cannot start says why, in a typed error, and leaves nothing behind."""

import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from triptych.client import Client
from triptych.config.load import make_spec
from triptych.controller import testing as runtime_module
from triptych.controller.local import LocalCluster
from triptych.controller.testing import InProcessRuntime
from triptych.core.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TriptychError,
    Unavailable,
    Unimplemented,
)
from triptych.models.resolve import resolve
from triptych.stages.host import StageHost

OURS = ("cluster", "compute", "encode", "grpc ", "transfer-", "mover")


class CountingRuntime(InProcessRuntime):
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def left() -> tuple[set[str], set[Any]]:
    """Threads and listening sockets of ours."""
    threads = {f"{thread.name} {thread.ident}" for thread in threading.enumerate() if thread.name.startswith(OURS)}
    sockets = {c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}
    return threads, sockets


def failure(model: Path | str, layout: str = "1P1D", **settings: Any) -> TriptychError:
    """The error of a cluster that cannot start, of which then nothing is left."""
    before, runtimes = left(), []

    def make_runtime(address: str | None, cpus: float) -> CountingRuntime:
        runtimes.append(CountingRuntime())
        return runtimes[-1]

    given = {"model": str(model), "layout": layout, "router.grpc": "127.0.0.1:0", "dtype": "float32"}
    cluster = LocalCluster(make_spec(given | settings), make_runtime=make_runtime)
    with pytest.raises(TriptychError) as caught:
        cluster.__enter__()
    cluster._thread.join(60)
    assert [runtime.closed for runtime in runtimes] == [1] * len(runtimes)
    for new, old in zip(left(), before, strict=True):
        assert new <= old  # of an earlier test something may have ended only now
    assert "Traceback" not in caught.value.message
    return caught.value


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_truncated_safetensors(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    error = failure(copy)
    assert isinstance(error, DataLoss)
    assert str(weights) in error.message
    assert "cut short" in error.message


@pytest.mark.parametrize("size", [100, 100_000, 10_000_000])
def test_truncated_gguf(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    with resolve("builtin:smollm2").path.open("rb") as whole:
        path.write_bytes(whole.read(size))
    error = failure(path)
    assert isinstance(error, DataLoss)
    assert str(path) in error.message


def test_an_unsupported_architecture(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    error = failure(copy)
    assert isinstance(error, Unimplemented)
    assert "MambaForCausalLM" in error.message
    assert "LlamaForCausalLM" in error.message


def test_a_model_that_is_not_there() -> None:
    error = failure("/no/such/model")
    assert isinstance(error, NotFound)
    assert "/no/such/model" in error.message
    assert error.field == "model"


def test_a_model_without_a_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert isinstance(failure(copy), NotFound)


@pytest.mark.parametrize(
    ("settings", "kind", "field"),
    [
        ({"layout": "1E1P1D"}, FailedPrecondition, "layout"),
        ({"kv_cache.memory": "900GiB"}, FailedPrecondition, "kv_cache.memory"),
        ({"context_length": 5000}, InvalidArgument, "context_length"),
    ],
)
def test_settings_that_do_not_suit_the_model_or_the_machine(
    tiny_llama: Path, settings: dict[str, Any], kind: type[TriptychError], field: str
) -> None:
    error = failure(tiny_llama, **settings)
    assert isinstance(error, kind)
    assert error.field == field


def test_a_port_in_use(tiny_llama: Path, start: Any) -> None:
    cluster = start(tiny_llama, "1D")
    with socket.create_server(("127.0.0.1", 0)) as other:
        for address in (cluster.address, f"127.0.0.1:{other.getsockname()[1]}"):
            error = failure(tiny_llama, **{"router.grpc": address})
            assert isinstance(error, FailedPrecondition)
            assert error.message.startswith(f"cannot listen on {address}: ")
            assert error.field == "router.grpc"
    assert cluster.client.generate("still here", max_tokens=3, ignore_eos=True).usage.completion_tokens == 3


@pytest.mark.parametrize("error", [DataLoss("the disk is failing"), Unavailable("the process died")])
def test_one_worker_that_cannot_start_takes_the_others_with_it(
    tiny_llava: Path, error: TriptychError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(settings: Any) -> StageHost:
        if settings.worker_id == "decode-0":
            raise error
        return StageHost(settings)

    monkeypatch.setattr(runtime_module, "StageHost", build)
    assert failure(tiny_llava, "1E1P1D") is error


def test_a_cluster_starts_again_where_one_has_ended(tiny_llama: Path, running: Any) -> None:
    with running(tiny_llama, "1D") as first:
        address = first.address
    with running(tiny_llama, "1D", router__grpc=address) as second, Client(address) as client:
        assert second.address == address
        assert client.generate("again", max_tokens=2, ignore_eos=True).usage.completion_tokens == 2
