"""What a worker has read that keeps some of its experts in memory."""

from dataclasses import dataclass

from triptych.stage.v1 import stage_pb2 as pb


@dataclass(frozen=True, slots=True)
class ExpertOffload:
    """Of one worker, since it started; of its rank 0 where there are several.

    Attributes:
        pool_bytes: Memory for experts.
        steps: Passes through the layers that have experts.
        demanded: Experts that layers asked for, each once per step and layer.
        hits: Of those, there since an earlier step.
        covered: Of those, there or under way because they were read in advance.
        misses: The rest.
        prefetched: Experts read in advance.
        used: Of those, asked for by the step that they were read for.
        wasted_bytes: Of those that were not.
        reads: Of experts, for whatever reason, and `read_bytes` their size.
        stall_us: Microseconds that steps waited for experts.
        failed_reads: That did not give what was written.
        prefetch: Who says what is read in advance: next-gate, route, ring or none.
        switched_off: Whether reading in advance has been given up for now, because it did not pay.
    """

    pool_bytes: int
    steps: int
    demanded: int
    hits: int
    covered: int
    misses: int
    prefetched: int
    used: int
    wasted_bytes: int
    reads: int
    read_bytes: int
    stall_us: int
    failed_reads: int
    prefetch: str
    switched_off: bool

    @property
    def hit_ratio(self) -> float:
        """Share of the demand that was there, or under way because it was read in advance; 1 without demand."""
        return (self.hits + self.covered) / self.demanded if self.demanded else 1.0


def offload_from_proto(message: pb.ExpertOffload) -> ExpertOffload:
    """What a worker has reported."""
    return ExpertOffload(**{name: getattr(message, name) for name in ExpertOffload.__dataclass_fields__})
