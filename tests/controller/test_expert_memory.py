"""What each stage's ranks keep experts in, before any of them is started."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from triptych.config.resources import resolve_stages
from triptych.config.spec import ClusterSpec
from triptych.config.stages import Ranks
from triptych.controller.expert_memory import offloads_of, pool_bytes, settle
from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.fleet import Stage
from triptych.experts.fit import budget
from triptych.experts.pool import pool_of
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings
from triptych.models.expert_sizes import WeightForm, layer_needs
from triptych.models.size import parameters
from triptych.models.spec import DecoderSpec, ModelSpec, MoeSpec, SoftmaxRouter

MIXTURE = MoeSpec(num_experts=4, top_k=2, intermediate_size=32, router=SoftmaxRouter(renormalise=True))
BLOB = 3 * 4096 + 2 * 4096
EXPERTS = 3 * 4 * 4 * 3 * 48 * 32
FIXED = 1 << 20
WIDE = 128
"""Outputs of experts that twelve bits a weight save a page of: of 9 with 16 bits."""
PAGE = 4096
FLOAT32, BFLOAT16 = WeightForm(4.0, compactable=False), WeightForm(2.0, compactable=True)
REFUSED = WeightForm(2.0, compactable=False)


@pytest.fixture(autouse=True)
def _nothing_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEPT_FREE", 0)


@pytest.fixture
def mixture(model_spec: Callable[..., ModelSpec]) -> ModelSpec:
    plain = model_spec()
    layers = tuple(replace(layer, mlp=MIXTURE) for layer in plain.decoder.layers)
    return replace(plain, decoder=replace(plain.decoder, layers=layers))


def others(decoder: DecoderSpec) -> int:
    return 4 * parameters(decoder) - EXPERTS


def settled(mixture: ModelSpec, free: int, **settings: Any) -> dict[Stage, OffloadSettings | None]:
    """With so much memory beside the other weights and what workers take for themselves."""
    spec = ClusterSpec(model="tiny", **settings)
    stages = resolve_stages(spec, "texts", cpu_count=4)
    offloads = offloads_of(spec, mixture, stages)
    free += FIXED + others(mixture.decoder)
    return settle(offloads, mixture.decoder, FLOAT32, stages, fixed=FIXED, free=free)


def budgets(offloads: dict[Stage, OffloadSettings | None]) -> list[Any]:
    return [offload and offload.budget for offload in (offloads[Stage.PREFILL], offloads[Stage.DECODE])]


AUTO = {"experts": {"budget": "auto"}}


def test_where_all_experts_fit_nobody_reads_them(mixture: ModelSpec) -> None:
    assert budgets(settled(mixture, EXPERTS, layout="1P2D", **AUTO)) == [None, None]


def test_else_workers_and_their_ranks_divide_what_is_left(mixture: ModelSpec) -> None:
    assert budgets(settled(mixture, EXPERTS - 1, layout="1D", **AUTO)) == [Bytes(EXPERTS - 1)] * 2
    assert budgets(settled(mixture, 10 * BLOB, layout="1P1D", **AUTO)) == [Bytes(5 * BLOB)] * 2
    half = settled(mixture, 8 * BLOB, layout="1D", expert_parallel=2, **AUTO)
    assert budgets(half) == [Bytes(4 * BLOB)] * 2


def test_experts_that_somebody_maps_anyway_are_kept_by_all(mixture: ModelSpec) -> None:
    stages = {"prefill": {"replicas": 1, "experts": {}}, "decode": {"replicas": 1}}
    assert budgets(settled(mixture, EXPERTS, stages=stages, **AUTO)) == [None, None]


def test_a_given_budget_goes_first(mixture: ModelSpec) -> None:
    stages = {"prefill": {"replicas": 2, "experts": {"budget": "50%"}}, "decode": {"replicas": 1}}
    found = settled(mixture, 12 * BLOB + 5 * BLOB, stages=stages, **AUTO)
    assert budgets(found) == [Fraction(0.5), Bytes(5 * BLOB)]


def test_less_than_a_layer_each_is_refused(mixture: ModelSpec) -> None:
    with pytest.raises(FailedPrecondition, match=r"20\.00 KiB of memory are missing") as caught:
        settled(mixture, 7 * BLOB, layout="2D", **AUTO)
    assert caught.value.field == "experts.budget"


def test_a_model_without_experts_takes_auto_and_refuses_numbers(model_spec: Callable[..., ModelSpec]) -> None:
    plain = model_spec()
    assert set(settled_plain(plain, "auto").values()) == {None}
    with pytest.raises(InvalidArgument, match="tiny has no experts") as caught:
        settled_plain(plain, "50%")
    assert caught.value.field == "experts.budget"


def settled_plain(plain: ModelSpec, given: str) -> dict[Stage, OffloadSettings | None]:
    spec = ClusterSpec.model_validate({"model": "tiny", "experts": {"budget": given}})
    return offloads_of(spec, plain, resolve_stages(spec, "texts", cpu_count=4))


def test_ranks_of_another_machine_cannot_each_decide(mixture: ModelSpec) -> None:
    joined = {"model": "tiny", "expert_parallel": 2, "ray": {"address": "auto"}, **AUTO}
    spec = ClusterSpec.model_validate(joined)
    with pytest.raises(InvalidArgument, match="must be a share or a size"):
        offloads_of(spec, mixture, resolve_stages(spec, "texts", cpu_count=4))
    alone = ClusterSpec.model_validate(joined | {"expert_parallel": 1})
    kept = offloads_of(alone, mixture, resolve_stages(alone, "texts", cpu_count=4))[Stage.DECODE]
    assert kept == OffloadSettings(budget=Auto())


@pytest.fixture
def wide(mixture: ModelSpec) -> ModelSpec:
    layers = tuple(replace(layer, mlp=replace(MIXTURE, intermediate_size=WIDE)) for layer in mixture.decoder.layers)
    return replace(mixture, decoder=replace(mixture.decoder, layers=layers))


@pytest.mark.parametrize(
    ("given", "form", "blob"),
    [
        ({}, BFLOAT16, 8),
        ({}, REFUSED, 9),
        ({"compact": False}, BFLOAT16, 9),
        ({"lossy": True}, BFLOAT16, 9),
        ({"lossy": "int4"}, BFLOAT16, 9),
    ],
)
def test_experts_of_sixteen_bits_are_counted_in_the_form_that_they_are_kept_in(
    wide: ModelSpec, given: dict[str, Any], form: WeightForm, blob: int
) -> None:
    experts, slot = 3 * 4 * 3 * 2 * 48 * WIDE, blob * PAGE
    others = 2 * parameters(wide.decoder) - experts

    def settled(room: int, **spec: Any) -> dict[Stage, OffloadSettings | None]:
        cluster = ClusterSpec(model="tiny", **spec)
        stages = resolve_stages(cluster, "texts", cpu_count=4)
        offloads = offloads_of(cluster, wide, stages)
        return settle(offloads, wide.decoder, form, stages, fixed=FIXED, free=FIXED + others + room)

    automatic = {"experts": {"budget": "auto", **given}}
    assert budgets(settled(4 * slot, layout="1D", **automatic)) == [Bytes(4 * slot)] * 2
    with pytest.raises(FailedPrecondition, match="of memory are missing"):
        settled(4 * slot - 1, layout="1D", **automatic)
    most = min(experts - 1, 12 * slot)
    assert budgets(settled(experts - 1, layout="1D", **automatic)) == [Bytes(most)] * 2
    stages = {"prefill": {"replicas": 1, "experts": {"budget": "50%", **given}}, "decode": {"replicas": 1}}
    half = 6 * 9 * PAGE
    assert budgets(settled(half + 5 * slot, stages=stages, **automatic)) == [Fraction(0.5), Bytes(5 * slot)]


@pytest.mark.parametrize("given", [{}, {"compact": False}, {"lossy": True}, {"lossy": "int4"}])
@pytest.mark.parametrize("budget", [Fraction(0.5), Fraction(1), Bytes(6 * 9 * PAGE), Bytes(1 << 40)])
def test_a_pool_is_counted_as_large_as_it_will_be(
    wide: ModelSpec, given: dict[str, Any], budget: Fraction | Bytes
) -> None:
    offload = OffloadSettings(budget=budget, **given)
    layers = layer_needs(wide.decoder, BFLOAT16, compact=offload.twelve_bits("cpu"))
    counted, pool = pool_bytes(offload, wide.decoder, BFLOAT16, Ranks()), pool_of(offload, layers)
    assert pool.nbytes <= counted < pool.nbytes + pool.slot_bytes
