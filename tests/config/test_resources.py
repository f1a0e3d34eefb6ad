import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.config.layout import Layout
from triptych.config.resources import StageResources, resolve_stages, threads_for
from triptych.config.sections import KvCacheSpec, StagesSpec
from triptych.config.spec import ClusterSpec
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage

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
    assert tuple(threads_for(Layout.parse(text), processors).values()) == threads


@given(LAYOUTS, st.integers(1, 256))
def test_the_workers_of_one_stage_fit_the_processors_or_have_one_thread_each(layout: Layout, processors: int) -> None:
    for stage, threads in threads_for(layout, processors).items():
        assert threads >= 1
        assert threads == 1 or threads * layout.replicas(stage) <= processors


@given(LAYOUTS, st.integers(1, 256))
def test_what_ray_sets_aside_fits_the_machine(layout: Layout, processors: int) -> None:
    stages = resolve_stages(ClusterSpec(model="m", layout=layout), "images", cpu_count=processors)
    assert list(stages) == [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    assert sum(s.cpus * s.replicas for s in stages.values()) <= processors + 1e-9
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
