from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from triptych.config.experts import ExpertsSpec
from triptych.config.layout import Layout
from triptych.config.resources import StageResources, offload_of, resolve_stages, threads_for
from triptych.config.sections import ExpertBalanceSpec, KvCacheSpec
from triptych.config.spec import ClusterSpec
from triptych.config.stages import Ranks, StagesSpec
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings

LAYOUTS = st.builds(Layout, st.integers(0, 8), st.integers(0, 8), st.integers(1, 8))


@pytest.mark.parametrize(
    ("text", "processors", "threads"),
    [
        ("1E1P1D", 2, (1, 1, 2)),
        ("1E1P1D", 1, (1, 1, 1)),
        ("1E1P1D", 8, (1, 7, 8)),
        ("1P2D", 8, (1, 7, 4)),
        ("2E", 8, (4, 7, 8)),
    ],
)
def test_decode_has_every_processor_and_prefill_leaves_it_one(
    text: str, processors: int, threads: tuple[int, ...]
) -> None:
    assert tuple(threads_for(Layout.parse(text), processors, {}).values()) == threads


@given(LAYOUTS, st.integers(1, 256), st.integers(1, 8), st.integers(1, 8))
def test_the_ranks_of_one_stage_fit_the_processors_or_have_one_thread_each(
    layout: Layout, processors: int, prefill: int, decode: int
) -> None:
    ranks = {Stage.ENCODE: 1, Stage.PREFILL: prefill, Stage.DECODE: decode}
    for stage, threads in threads_for(layout, processors, ranks).items():
        assert threads >= 1
        assert threads == 1 or threads * layout.replicas(stage) * ranks[stage] <= processors


@given(LAYOUTS, st.integers(1, 256), st.integers(1, 4))
def test_what_ray_sets_aside_fits_the_machine(layout: Layout, processors: int, tensor: int) -> None:
    spec = ClusterSpec(model="m", layout=layout, tensor_parallel=tensor)
    stages = resolve_stages(spec, "images", cpu_count=processors)
    assert list(stages) == [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    processes = sum(s.replicas * s.ranks.size for s in stages.values())
    assert sum(s.cpus * s.replicas * s.ranks.size for s in stages.values()) <= max(processors, processes) + 1e-9
    assert all(s.cpus > 0 for s in stages.values())


def test_given_resources_win_over_the_shares() -> None:
    spec = ClusterSpec(
        model="m",
        stages=StagesSpec.model_validate(
            {"encode": {"replicas": 1}, "decode": {"replicas": 2, "cpus": 3, "gpus": 1, "threads": 5}}
        ),
    )
    stages = resolve_stages(spec, "images", cpu_count=6)
    assert stages[Stage.ENCODE] == StageResources(1, cpus=2.0, gpus=0.0, threads=1)
    assert stages[Stage.PREFILL].replicas == 0
    assert stages[Stage.DECODE] == StageResources(2, cpus=3.0, gpus=1.0, threads=5)


def test_encode_workers_of_a_text_model_are_refused() -> None:
    spec = ClusterSpec(model="m", stages=StagesSpec.model_validate({"encode": {"replicas": 1}}))
    with pytest.raises(FailedPrecondition, match="reads text only"):
        resolve_stages(spec, "texts", cpu_count=2)


def test_the_cache_is_a_gibibyte_unless_the_machine_is_small_or_someone_says() -> None:
    gib = 2**30
    assert KvCacheSpec().memory_on(64 * gib) == gib
    assert KvCacheSpec().memory_on(4 * gib) == gib // 4
    assert KvCacheSpec(memory=3 * 2**20).memory_on(64 * gib) == 3 * 2**20


def test_every_decoder_has_the_ranks_of_the_cluster_unless_its_stage_says_otherwise() -> None:
    stages = {"encode": {"replicas": 1}, "prefill": {"replicas": 1}, "decode": {"replicas": 1, "tensor_parallel": 4}}
    spec = ClusterSpec(
        model="m",
        tensor_parallel=2,
        expert_parallel=3,
        attention_parallel="tensor",
        stages=StagesSpec.model_validate(stages),
    )
    resources = resolve_stages(spec, "images", cpu_count=48)
    assert [of.ranks for of in resources.values()] == [Ranks(), Ranks(2, 3, "tensor"), Ranks(4, 3, "tensor")]
    assert [of.threads for of in resources.values()] == [1, 47 // 6, 48 // 12]
    assert [of.ranks.size for of in resources.values()] == [1, 6, 12]


def test_further_copies_of_experts_need_a_stage_that_divides_them() -> None:
    stages = StagesSpec.model_validate({"prefill": {"replicas": 1}, "decode": {"replicas": 1, "expert_parallel": 4}})
    balance = ExpertBalanceSpec(redundant_experts=4)
    assert ClusterSpec(model="m", stages=stages, expert_balance=balance).expert_balance == balance
    assert ClusterSpec(model="m", expert_parallel=2, expert_balance=balance).expert_balance == balance
    with pytest.raises(ValidationError, match="one rank has every expert"):
        ClusterSpec(model="m", stages=StagesSpec(), expert_balance=balance)


def test_a_stage_may_keep_its_experts_otherwise() -> None:
    whole = {"model": "m", "experts": {"budget": "50%", "policy": "lru", "route": "routes"}}
    offload = offload_of(ClusterSpec.model_validate(whole), Stage.DECODE)
    expected = OffloadSettings(budget=Fraction(0.5), policy="lru", route=Path("routes").absolute())
    assert offload == expected
    stages = {
        "prefill": {"replicas": 1, "experts": {}},
        "decode": {"replicas": 1, "experts": {"budget": "3MiB", "warm": False}},
    }
    spec = ClusterSpec.model_validate(whole | {"stages": stages})
    assert offload_of(spec, Stage.PREFILL) is None
    assert offload_of(spec, Stage.DECODE) == OffloadSettings(budget=Bytes(3 << 20), warm=False)
    assert offload_of(spec, Stage.ENCODE) is None
    assert ClusterSpec.model_validate(spec.model_dump()) == spec


def test_the_settings_of_experts_have_the_defaults_of_who_keeps_them() -> None:
    assert ExpertsSpec(budget=Auto()).offload() == OffloadSettings(budget=Auto())


@pytest.mark.parametrize(("given", "rounding"), [(False, None), (True, "int8"), ("int8", "int8"), ("int4", "int4")])
def test_experts_may_be_read_rounded_to_eight_bits_or_four(given: object, rounding: str | None) -> None:
    spec = ExpertsSpec.model_validate({"budget": "50%", "lossy": given})
    offload = spec.offload()
    assert offload is not None
    assert offload.rounding == rounding
    assert offload.twelve_bits("cpu") == (rounding is None)
    assert ExpertsSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize("given", ["int2", 1, "true"])
def test_they_are_rounded_to_nothing_else(given: object) -> None:
    with pytest.raises(ValidationError, match="lossy"):
        ExpertsSpec.model_validate({"budget": "50%", "lossy": given})
