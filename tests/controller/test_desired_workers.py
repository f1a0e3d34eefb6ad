from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triptych.config.spec import ClusterSpec
from triptych.controller.desired import PROCESS_BYTES, require_memory, weight_bytes
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage
from triptych.models.files import ModelFiles
from triptych.models.size import parameters

MIB = 1 << 20


def test_every_worker_of_a_layout_is_named_and_given_its_role(make_workers: Callable[..., Any]) -> None:
    workers = make_workers("2E1P2D", vision=True)
    assert [(w.settings.worker_id, w.settings.role) for w in workers] == [
        ("encode-0", Stage.ENCODE),
        ("encode-1", Stage.ENCODE),
        ("prefill-0", Stage.PREFILL),
        ("decode-0", Stage.DECODE),
        ("decode-1", Stage.DECODE),
    ]
    assert [w.settings.encodes for w in workers] == [True, True, False, False, False]
    assert [w.settings.decodes for w in workers] == [False, False, True, True, True]
    assert sum(w.cpus for w in workers) <= 4


def test_decode_workers_see_by_themselves_where_nobody_else_does(make_workers: Callable[..., Any]) -> None:
    assert [w.settings.encodes for w in make_workers("1P2D", vision=True)] == [False, True, True]
    assert [w.settings.encodes for w in make_workers("1P2D")] == [False, False, False]


def test_settings_reach_the_workers(make_workers: Callable[..., Any]) -> None:
    [worker] = make_workers(
        "1D",
        dtype="float32",
        quantization="gguf",
        context_length=48,
        kv_cache={"memory": 5 * MIB, "block_size": 8},
        scheduler={"max_batch_tokens": 32, "max_running": 3},
        transfer={"backend": "tcp", "lease_seconds": 6.0, "embedding_cache": 3 * MIB},
    )
    s = worker.settings
    assert (s.dtype, s.quantization) == ("float32", "gguf")
    assert (s.context_length, s.kv_cache_bytes, s.block_size) == (48, 5 * MIB, 8)
    assert (s.max_batch_tokens, s.max_running, s.transfer_backend, s.lease_seconds) == (32, 3, "tcp", 6.0)
    assert s.embedding_cache_bytes == 3 * MIB


def test_the_default_of_running_requests_fits_a_small_step(make_workers: Callable[..., Any]) -> None:
    [worker] = make_workers("1D", scheduler={"max_batch_tokens": 16})
    assert (worker.settings.max_batch_tokens, worker.settings.max_running) == (16, 15)


def test_a_cluster_that_does_not_fit_is_refused_with_what_it_needs(
    make_workers: Callable[..., Any], model_spec: Callable[..., Any]
) -> None:
    workers = make_workers("1E1P1D", vision=True, kv_cache={"memory": 100 * MIB})
    model = model_spec(vision=True)
    needed = 200 * MIB + 4 * parameters(model.decoder) + 3 * PROCESS_BYTES
    require_memory(workers, 4 * parameters(model.decoder), needed)
    with pytest.raises(FailedPrecondition) as caught:
        require_memory(workers, 4 * parameters(model.decoder), needed - MIB)
    assert caught.value.field == "kv_cache.memory"
    for part in (f"{needed >> 20} MiB", "200 MiB of it KV cache", f"{(needed - MIB) >> 20} MiB are available"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("settings", "itemsize"), [({"dtype": "float32"}, 4), ({}, 2), ({"quantization": "int8"}, 1)]
)
def test_plain_and_int8_weights_are_counted(
    settings: dict[str, Any], itemsize: int, model_spec: Callable[..., Any], tmp_path: Path
) -> None:
    model, files = model_spec(), ModelFiles("m", tmp_path, "safetensors")
    counted = weight_bytes(ClusterSpec(model="m", **settings), files, model)
    assert counted == itemsize * parameters(model.decoder)


def test_blocks_of_a_gguf_take_what_the_file_takes(model_spec: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" * 250)
    spec = ClusterSpec(model="m", quantization="gguf")
    assert weight_bytes(spec, ModelFiles("m", path, "gguf"), model_spec()) == 1000
