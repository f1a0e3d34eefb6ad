"""What an encode worker tells a router about pictures."""

import contextlib
import logging
from typing import assert_never

from triptych.core.encoding.actions import Answer, Refuse
from triptych.core.errors import Internal, TriptychError
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.encode_batch import Encoded, EncodeJob, Shape
from triptych.stages.identity import Identity
from triptych.transfer import EmbeddingStore

logger = logging.getLogger(__name__)


class EncodeAnswers:
    """Sends EncodeDone and Failed.

    Args:
        store: Has the embeddings.
        identity: Goes into the handles.
        shape: Of every embedding.
    """

    def __init__(self, store: EmbeddingStore, identity: Identity, shape: Shape) -> None:
        self._store = store
        self._identity = identity
        self._shape = shape

    def send(self, answer: Answer[EncodeJob] | Refuse[EncodeJob], now: float, encoded: Encoded | None) -> None:
        """Sends an answer, or why it could not be given: that concerns its job alone.

        Args:
            answer: What is to be told.
            now: Monotonic seconds.
            encoded: The batch that has just ended, if it was one.
        """
        job = answer.job
        try:
            job.command.session.send(self._event(answer, now, encoded))
        except Exception as error:
            logger.exception("an encode command could not be answered")
            with contextlib.suppress(Exception):
                job.command.session.send(events.failed(job.encode.key, as_defect(error)))

    def _event(
        self, answer: Answer[EncodeJob] | Refuse[EncodeJob], now: float, encoded: Encoded | None
    ) -> pb.ConnectResponse:
        match answer:
            case Refuse(job, error):
                return events.failed(job.encode.key, error)
            case Answer(job, began):
                times = _computed(job, began, encoded) if began is not None and encoded else _waited(job, now)
                handles = [self._handle(image) for image in job.encode.images]
                return pb.ConnectResponse(encode_done=pb.EncodeDone(key=job.encode.key, handles=handles, times=times))
            case _:
                assert_never(answer)

    def _handle(self, image: pb.EncodeImage) -> pb.EmbeddingHandle:
        embedding, shape = self._store.embedding(image.content_hash), self._shape
        return pb.EmbeddingHandle(
            index=image.index,
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            content_hash=image.content_hash,
            endpoint=self._identity.endpoint,
            rows=embedding.size // shape.row_bytes,
            columns=shape.columns,
            dtype=shape.dtype_name,
            checksum=embedding.checksum,
            levels=shape.levels,
        )


def as_defect(error: Exception) -> TriptychError:
    """What the router is told of an exception."""
    return error if isinstance(error, TriptychError) else Internal(f"the worker failed to encode: {error}")


def _waited(job: EncodeJob, now: float) -> pb.StageTimes:
    return pb.StageTimes(queue_us=_us(now - job.command.received))


def _computed(job: EncodeJob, began: float, encoded: Encoded) -> pb.StageTimes:
    return pb.StageTimes(
        queue_us=_us(began - job.command.received),
        input_us=_us(encoded.prepared - began),
        compute_us=_us(encoded.finished - encoded.prepared),
    )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
