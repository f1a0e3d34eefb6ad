"""Who a worker is."""

from dataclasses import dataclass

from triptych.stage.v1 import stage_pb2 as pb


@dataclass(frozen=True, slots=True)
class Identity:
    """Goes into whatever a worker hands out: tickets and handles.

    Attributes:
        incarnation: Differs between two processes of the same worker.
        endpoint: Its transfer server.
    """

    worker_id: str
    incarnation: str
    endpoint: pb.DataEndpoint
