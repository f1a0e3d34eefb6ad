"""What a worker has read of experts that are not all in memory, as it is reported."""

from triptych.experts.residency import Residency
from triptych.experts.settings import OffloadSettings
from triptych.stage.v1 import stage_pb2 as pb

_ALIKE = (
    "steps",
    "demanded",
    "hits",
    "covered",
    "misses",
    "prefetched",
    "used",
    "wasted_bytes",
    "reads",
    "read_bytes",
    "failed_reads",
    "switched_off",
)


def offload_to_proto(residency: Residency, settings: OffloadSettings) -> pb.ExpertOffload:
    """The message."""
    counts = residency.counts
    return pb.ExpertOffload(
        pool_bytes=residency.nbytes,
        stall_us=counts.stall_ns // 1000,
        prefetch=settings.prefetch if settings.policy != "ring" or settings.prefetch == "none" else "ring",
        **{name: getattr(counts, name) for name in _ALIKE},
    )
