"""What is reported of experts that are not all in memory."""

from dataclasses import dataclass, fields
from typing import Any, cast

import pytest

from triptych.client.expert_offload import ExpertOffload, offload_from_proto
from triptych.experts.residency import Counts, Residency
from triptych.experts.settings import Bytes, OffloadSettings
from triptych.stages.expert_offload import offload_to_proto


@dataclass
class Counted:
    """A residency that has counted something."""

    counts: Counts
    nbytes: int


@pytest.fixture
def residency() -> Residency:
    numbers: dict[str, Any] = {field.name: 1000 * place for place, field in enumerate(fields(Counts), 1)}
    return cast(Residency, Counted(Counts(**numbers | {"switched_off": True}), 7 << 20))


def test_every_count_arrives(residency: Residency) -> None:
    counts = residency.counts
    seen = offload_from_proto(offload_to_proto(residency, OffloadSettings(budget=Bytes(8 << 20))))
    units = {"stall_us": counts.stall_ns // 1000, "pool_bytes": 7 << 20, "prefetch": "next-gate"}
    assert {field.name: getattr(seen, field.name) for field in fields(ExpertOffload)} == {
        field.name: units[field.name] if field.name in units else getattr(counts, field.name)
        for field in fields(ExpertOffload)
    }
    assert seen.hit_ratio == counts.hit_ratio


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"prefetch": "none"}, "none"), ({"policy": "ring"}, "ring"), ({"policy": "ring", "prefetch": "none"}, "none")],
)
def test_the_ring_reads_in_advance_by_itself(residency: Residency, settings: dict[str, Any], name: str) -> None:
    assert offload_to_proto(residency, OffloadSettings(budget=Bytes(1), **settings)).prefetch == name
