"""Changes of a running cluster as operators ask for them: pure functions that both clients share."""

from dataclasses import dataclass

from triptych.admin.v1 import admin_pb2 as pb
from triptych.core.errors import InvalidArgument
from triptych.core.fleet import Stage
from triptych.wire.request import sending
from triptych.wire.stage import stage_to_proto


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a cluster begins to do when a stage is scaled.

    Attributes:
        started: Ids of workers that are being started.
        drained: Ids of workers that are being drained.
    """

    started: tuple[str, ...]
    drained: tuple[str, ...]


def drain_request(worker_id: str, timeout: float | None) -> pb.DrainWorkerRequest:
    """The message that takes a worker out.

    Raises:
        InvalidArgument: `timeout` is no number of seconds.
    """
    with sending("timeout"):
        milliseconds = None if timeout is None else round(timeout * 1000)
        return pb.DrainWorkerRequest(worker_id=worker_id, timeout_ms=milliseconds)


def scale_request(stage: str, replicas: int) -> pb.ScaleStageRequest:
    """The message that sets how many workers a stage has.

    Raises:
        InvalidArgument: there is no such stage, or `replicas` is no int32.
    """
    if stage not in tuple(Stage):
        raise InvalidArgument(f"stage must be encode, prefill or decode, got {stage!r:.40}", field="stage")
    with sending("replicas"):
        return pb.ScaleStageRequest(stage=stage_to_proto(Stage(stage)), replicas=replicas)


def scaling_from_proto(message: pb.ScaleStageResponse) -> Scaling:
    """What an AdminService has begun."""
    return Scaling(tuple(message.started), tuple(message.drained))
