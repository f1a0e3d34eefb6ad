"""The new pictures of several requests pass the vision tower."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

import torch

from triptych.core.encoding.job import Batch, Job
from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.engine.dtypes import dtype_name
from triptych.engine.prompts import Eyes
from triptych.engine.threads import torch_threads
from triptych.models.pictures import PreparedImage
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import Command
from triptych.transfer.segment import Bytes


@dataclass(frozen=True, slots=True)
class EncodeJob(Job):
    """One router's wish for the embeddings of some pictures, with the pictures."""

    command: Command = field(compare=False, repr=False)

    @classmethod
    def of(cls, command: Command) -> Self:
        """What an Encode command asks for."""
        encode = command.request.encode
        return cls(
            key=OperationKey(encode.key.request_id, encode.key.epoch),
            session=command.session,
            pictures=tuple(image.content_hash for image in encode.images),
            deadline=command.received + encode.timeout_ms / 1000 if encode.timeout_ms else None,
            anew=encode.anew,
            command=command,
        )

    @property
    def encode(self) -> pb.Encode:
        """The command's content."""
        return self.command.request.encode


@dataclass(frozen=True, slots=True)
class Encoded:
    """What has become of a batch.

    Attributes:
        data: Bytes of [rows, columns] by content hash.
        failed: Jobs that sent a bad picture.
        prepared: Monotonic seconds when all pictures were decoded.
        finished: Monotonic seconds of the end.
    """

    data: dict[str, Bytes]
    failed: dict[OperationKey, TriptychError]
    prepared: float
    finished: float


class BatchEncoder:
    """Turns pictures into embedding bytes.

    Args:
        eyes: Vision tower and preprocessing.
        rows: Tokens of one picture.
        columns: Width of one token's embedding.
        dtype: Its element type.
        threads: Threads of the vision tower.

    Attributes:
        passes: Pictures that have passed the vision tower, whatever came of their batch.
    """

    def __init__(self, eyes: Eyes, rows: int, columns: int, dtype: torch.dtype, threads: int) -> None:
        self.shape = (rows, columns, dtype_name(dtype))
        self.picture_bytes = rows * columns * dtype.itemsize
        self._eyes = eyes
        self._dtype = dtype
        self._threads = threads
        self.passes = 0

    def encode(self, batch: Batch[EncodeJob]) -> Encoded:
        """Encodes each new picture once; a bad one fails the requests that sent it, no other."""
        images: dict[str, PreparedImage] = {}
        failed = {job.key: error for job in batch.jobs if (error := self._prepare(job, batch.pictures, images))}
        prepared = time.monotonic()
        with torch_threads(self._threads):
            data = {picture: self._see(image) for picture, image in images.items()}
        return Encoded(data, failed, prepared, time.monotonic())

    def _prepare(
        self, job: EncodeJob, new: Collection[str], images: dict[str, PreparedImage]
    ) -> TriptychError | None:
        """Adds the request's new pictures to `images`; the error of the first bad one, by the request's own name."""
        for image in job.encode.images:
            if image.content_hash not in new or image.content_hash in images:
                continue
            try:
                images[image.content_hash] = self._eyes.preprocessor.image(image.data, field=image.field)
            except TriptychError as error:
                return error
        return None

    @torch.inference_mode()
    def _see(self, image: PreparedImage) -> Bytes:
        """One picture at a time: its rows keep a CPU busy, and it gets the same bytes in any company."""
        (embedding,) = self._eyes.encoder.encode([image])
        self.passes += 1
        return embedding.to(self._dtype).contiguous().view(-1).view(torch.uint8).numpy()
