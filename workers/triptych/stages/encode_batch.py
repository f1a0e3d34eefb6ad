"""The new pictures of several requests pass the vision tower."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

import torch

from triptych.core.encoding.job import Batch, Job
from triptych.core.errors import Internal, TriptychError
from triptych.core.generation import OperationKey
from triptych.core.prompt import ImagePart, VideoPart
from triptych.engine.dtypes import dtype_name
from triptych.engine.eyes import Eyes
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
    def of(cls, command: Command, row_bytes: int) -> Self:
        """What an Encode command asks for; a row of an embedding has so many bytes, all levels together."""
        encode = command.request.encode
        return cls(
            key=OperationKey(encode.key.request_id, encode.key.epoch),
            session=command.session,
            pictures=tuple(image.content_hash for image in encode.images),
            sizes=tuple(image.rows * row_bytes for image in encode.images),
            deadline=command.received + encode.timeout_ms / 1000 if encode.timeout_ms else None,
            anew=encode.anew,
            command=command,
        )

    @property
    def encode(self) -> pb.Encode:
        """The command's content."""
        return self.command.request.encode


@dataclass(frozen=True, slots=True)
class Shape:
    """What all embeddings of a model have in common.

    Attributes:
        columns: Width of a row.
        levels: Further rows of each image token, for the first layers of the decoder.
        dtype: Element type.
    """

    columns: int
    levels: int
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """As handles have it."""
        return dtype_name(self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image token."""
        return (1 + self.levels) * self.columns * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Encoded:
    """What has become of a batch.

    Attributes:
        data: Bytes of [1 + levels, rows, columns] by content hash.
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
        shape: Of the embeddings.
        threads: Threads of the vision tower.

    Attributes:
        passes: Pictures that have passed the vision tower, whatever came of their batch.
    """

    def __init__(self, eyes: Eyes, shape: Shape, threads: int) -> None:
        self.shape = shape
        self._eyes = eyes
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
            part = VideoPart(tuple(image.frames), image.fps) if image.frames else ImagePart(image.data)
            try:
                prepared = self._eyes.prepare(part, image.field)
            except TriptychError as error:
                return error
            if prepared.layout.rows != image.rows:  # the room that it has taken would not be the room that it needs
                return Internal(
                    f"{image.field} has {prepared.layout.rows} rows; its prompt has {image.rows} tokens for it"
                )
            images[image.content_hash] = prepared
        return None

    @torch.inference_mode()
    def _see(self, image: PreparedImage) -> Bytes:
        """One picture at a time: its rows keep a CPU busy, and it gets the same bytes in any company."""
        embedding = self._eyes.see(image).to(self.shape.dtype)
        self.passes += 1
        return embedding.contiguous().view(-1).view(torch.uint8).numpy()
