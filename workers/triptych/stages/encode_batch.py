"""One pass of the vision tower over the new pictures of several requests."""

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.engine.dtypes import dtype_name
from triptych.engine.prompts import Eyes
from triptych.engine.threads import torch_threads
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import Command
from triptych.transfer.segment import Bytes

MAX_PICTURES = 16
"""Pictures that pass the vision tower together."""


@dataclass(frozen=True, eq=False, slots=True)
class EncodeJob:
    """One router's wish for the embeddings of some pictures."""

    command: Command
    encode: pb.Encode

    @property
    def holder(self) -> OperationKey:
        """Who will free them."""
        return OperationKey(self.encode.key.request_id, self.encode.key.epoch)

    @property
    def pictures(self) -> frozenset[str]:
        """Content hashes."""
        return frozenset(image.content_hash for image in self.encode.images)

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds after which nobody wants them any more."""
        return self.command.received + self.encode.timeout_ms / 1000 if self.encode.timeout_ms else None

    @property
    def expired(self) -> bool:
        """Whether nobody wants them any more."""
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class Encoded:
    """The new embeddings of one request.

    Attributes:
        data: Bytes of [rows, columns] by content hash.
    """

    data: dict[str, Bytes]
    times: pb.StageTimes


class BatchEncoder:
    """Turns pictures into embedding bytes.

    Args:
        eyes: Vision tower and preprocessing.
        rows: Tokens of one picture.
        columns: Width of one token's embedding.
        dtype: Its element type.
        threads: Threads of the vision tower.
    """

    def __init__(self, eyes: Eyes, rows: int, columns: int, dtype: torch.dtype, threads: int) -> None:
        self.shape = (rows, columns, dtype_name(dtype))
        self.picture_bytes = rows * columns * dtype.itemsize
        self._eyes = eyes
        self._dtype = dtype
        self._threads = threads

    def encode(self, jobs: list[EncodeJob], known: Collection[str]) -> dict[EncodeJob, Encoded | TriptychError]:
        """Encodes each picture that is not known, once; a bad one fails the requests that sent it, no other.

        Args:
            jobs: The requests of the batch.
            known: Content hashes whose embeddings are there already.
        """
        started = time.monotonic()
        pixels: dict[str, Tensor] = {}
        failed = {job: error for job in jobs if (error := self._prepare(job, known, pixels))}
        prepared = time.monotonic()
        with torch_threads(self._threads):
            embeddings = self._see(pixels)
        finished = time.monotonic()

        def outcome(job: EncodeJob) -> Encoded | TriptychError:
            if error := failed.get(job):
                return error
            times = pb.StageTimes(
                queue_us=round((started - job.command.received) * 1e6),
                input_us=round((prepared - started) * 1e6),
                compute_us=round((finished - prepared) * 1e6),
            )
            return Encoded({key: embeddings[key] for key in job.pictures & embeddings.keys()}, times)

        return {job: outcome(job) for job in jobs}

    def _prepare(self, job: EncodeJob, known: Collection[str], pixels: dict[str, Tensor]) -> TriptychError | None:
        """Adds the request's new pictures to `pixels`; the error of the first bad one, by the request's own name."""
        for image in job.encode.images:
            if image.content_hash in known or image.content_hash in pixels:
                continue
            try:
                array = self._eyes.preprocessor.preprocess(image.data, field=image.field)
            except TriptychError as error:
                return error
            pixels[image.content_hash] = torch.from_numpy(array)
        return None

    @torch.inference_mode()
    def _see(self, pixels: dict[str, Tensor]) -> dict[str, Bytes]:
        seen: dict[str, Bytes] = {}
        keys = list(pixels)
        for part in (keys[i : i + MAX_PICTURES] for i in range(0, len(keys), MAX_PICTURES)):
            embeddings = self._eyes.encoder.encode(torch.stack([pixels[key] for key in part])).to(self._dtype)
            rows = embeddings.contiguous().view(len(part), -1).view(torch.uint8).numpy()
            seen |= zip(part, rows, strict=True)
        return seen
