from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from triptych.config.spec import ClusterSpec
from triptych.controller.copies import copied_besides_experts, copied_parameters
from triptych.controller.desired import (
    PROCESS_BYTES,
    Blueprint,
    plain_form,
    require_memory,
    unmapped_bytes,
    weight_bytes,
)
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.models.files import ModelFiles
from triptych.models.size import parameters
from triptych.models.spec import ModelSpec, MoeSpec, SoftmaxRouter
from triptych.parallel import Parallelism
from triptych.parallel.balance import BalancePolicy

MIB = 1 << 20


MIXTURE = MoeSpec(num_experts=4, top_k=2, intermediate_size=32, router=SoftmaxRouter(renormalise=True))
BLOB = 3 * 4096 + 2 * 4096
"""2 · 48 · 32 and 48 · 32 numbers of four bytes, in pages."""


@pytest.fixture
def make_mixture(make_blueprint: Callable[..., Blueprint]) -> Callable[..., Blueprint]:
    """The same of a model with three layers of four experts."""

    def make(layout: str, **settings: Any) -> Blueprint:
        plain = make_blueprint(layout, **settings)
        assert isinstance(plain.model, ModelSpec)
        layers = tuple(replace(layer, mlp=MIXTURE) for layer in plain.model.decoder.layers)
        return replace(plain, model=replace(plain.model, decoder=replace(plain.model.decoder, layers=layers)))

    return make


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


def test_how_experts_are_balanced_reaches_the_workers(make_workers: Callable[..., Any]) -> None:
    balance = {"redundant_experts": 4, "window": 64, "threshold": 0.5}
    [worker] = make_workers("1D", expert_parallel=2, expert_balance=balance, expert_payload="fp8")
    assert worker.settings.parallelism == Parallelism(expert=2, payload="fp8", redundant=4)
    assert worker.settings.balance == BalancePolicy(window=64, threshold=0.5)


def test_how_experts_are_kept_reaches_the_workers_that_have_them(make_mixture: Callable[..., Blueprint]) -> None:
    experts = {"budget": "25%", "policy": "lru", "prefetch": "none"}
    blueprint = make_mixture("1E1D", vision=True, dtype="float32", experts=experts)
    encode, decode = blueprint.workers()
    assert encode.settings.offload is None
    assert decode.settings.offload == OffloadSettings(budget=Fraction(0.25), policy="lru", prefetch="none")
    assert (encode.pools, decode.pools) == (0, 3 * BLOB)


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


def test_every_rank_has_a_process_a_cache_and_copies_of_what_cannot_be_mapped(
    make_workers: Callable[..., Any], model_spec: Callable[..., Any]
) -> None:
    [one] = make_workers("1D", dtype="float32", kv_cache={"memory": 10 * MIB})
    [two] = make_workers(
        "1D", dtype="float32", kv_cache={"memory": 10 * MIB}, tensor_parallel=2, expert_payload="int8"
    )
    assert (one.ranks, one.copies, two.ranks) == (1, 0, 2)
    assert two.settings.parallelism == Parallelism(2)
    weights = 4 * parameters(model_spec().decoder)
    back = 3 * 48 * (48 + 80)  # of each layer the attention's output and the way down
    assert two.copies == pytest.approx(4 * back, abs=4)
    needed = 20 * MIB + weights + two.copies + 2 * PROCESS_BYTES
    require_memory((two,), weights, needed)
    with pytest.raises(FailedPrecondition, match=r"1 workers of 2 ranks need .* use fewer ranks"):
        require_memory((two,), weights, needed - MIB)


def test_rows_of_expert_ranks_copy_what_every_token_goes_through_and_experts_once(
    model_spec: Callable[..., Any],
) -> None:
    plain = model_spec().decoder
    decoder = replace(plain, layers=tuple(replace(layer, mlp=MIXTURE) for layer in plain.layers))
    attention, experts = 48 * 48, 4 * 48 * 32
    assert copied_parameters(decoder, Parallelism(1, 2)) == 0
    assert copied_parameters(decoder, Parallelism(2, 2)) == 3 * (2 * attention + experts)
    assert copied_parameters(decoder, Parallelism(1, 2, "tensor")) == 3 * attention
    assert copied_besides_experts(decoder, Parallelism(2, 2)) == 3 * 2 * attention


@pytest.mark.parametrize(
    ("settings", "itemsize"), [({"dtype": "float32"}, 4), ({}, 2), ({"quantization": "int8"}, 1)]
)
def test_plain_and_int8_weights_are_counted(
    settings: dict[str, Any], itemsize: int, model_spec: Callable[..., Any], tmp_path: Path
) -> None:
    model, files = model_spec(), ModelFiles("m", tmp_path, "safetensors")
    spec = ClusterSpec(model="m", **settings)
    assert weight_bytes(spec, model, plain_form(spec, files, model)) == itemsize * parameters(model.decoder)


def test_blocks_of_a_gguf_take_what_the_file_takes(model_spec: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" * 250)
    spec, model = ClusterSpec(model="m", quantization="gguf"), model_spec()
    assert weight_bytes(spec, model, plain_form(spec, ModelFiles("m", path, "gguf"), model)) == 1000


def test_experts_that_nobody_maps_are_not_counted_and_pools_are(make_mixture: Callable[..., Blueprint]) -> None:
    blueprint = make_mixture("1P1D", dtype="float32", experts={"budget": "50%"})
    assert unmapped_bytes(blueprint) == pytest.approx(4 * 3 * 4 * 3 * 48 * 32, abs=1)
    assert [worker.pools for worker in blueprint.workers()] == [6 * BLOB] * 2
    workers = blueprint.workers()
    needed = sum(worker.settings.kv_cache_bytes for worker in workers) + 12 * BLOB + 2 * PROCESS_BYTES
    require_memory(workers, 0, needed)
    with pytest.raises(FailedPrecondition):
        require_memory(workers, 0, needed - 1)
    with pytest.raises(FailedPrecondition, match=r"fewer workers, or what else helps"):
        require_memory(workers, 0, needed - 1, ", or what else helps")
    whole = replace(blueprint, offloads=blueprint.offloads | {Stage.PREFILL: None})  # type: ignore[operator]
    assert unmapped_bytes(whole) == 0
