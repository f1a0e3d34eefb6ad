"""One pass of the vision tower over the new pictures of several requests."""

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.core.errors import TriptychError
from triptych.engine.dtypes import dtype_name
from triptych.engine.prompts import Eyes
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import Command
from triptych.transfer import Holder
from triptych.transfer.segment import Bytes


@dataclass(frozen=True, eq=False, slots=True)
class EncodeJob:
    """One router's wish for the embeddings of some pictures."""

    command: Command
    encode: pb.Encode

    @property
    def holder(self) -> Holder:
        """Who will free them."""
        return Holder(self.encode.key.request_id, self.encode.key.epoch)

    @property
    def expired(self) -> bool:
        """Whether nobody wants them any more."""
        limit = self.encode.timeout_ms / 1000
        return bool(limit) and time.monotonic() >= self.command.received + limit


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
        shape: Rows and columns of one picture's embeddings, and their element type.
    """

    def __init__(self, eyes: Eyes, rows: int, columns: int, dtype: torch.dtype) -> None:
        self.shape = (rows, columns, dtype_name(dtype))
        self._eyes = eyes
        self._dtype = dtype

    def encode(self, jobs: list[EncodeJob], known: Collection[str]) -> dict[EncodeJob, Encoded | TriptychError]:
        """Encodes each picture that is not known, once; a bad one fails the requests that sent it, no other.

        Args:
            jobs: The requests of the batch.
            known: Content hashes whose embeddings are there already.
        """
        started = time.monotonic()
        pixels: dict[str, Tensor | TriptychError] = {}
        for job in jobs:
            for image in job.encode.images:
                if image.content_hash not in known and image.content_hash not in pixels:
                    pixels[image.content_hash] = self._prepare(image)
        prepared = time.monotonic()
        embeddings = self._see({key: value for key, value in pixels.items() if isinstance(value, Tensor)})
        finished = time.monotonic()

        def outcome(job: EncodeJob) -> Encoded | TriptychError:
            hashes = {image.content_hash for image in job.encode.images} & pixels.keys()
            for content_hash in sorted(hashes):
                if isinstance(error := pixels[content_hash], TriptychError):
                    return error
            times = pb.StageTimes(
                queue_us=round((started - job.command.received) * 1e6),
                input_us=round((prepared - started) * 1e6),
                compute_us=round((finished - prepared) * 1e6),
            )
            return Encoded({content_hash: embeddings[content_hash] for content_hash in hashes}, times)

        return {job: outcome(job) for job in jobs}

    def _prepare(self, image: pb.EncodeImage) -> Tensor | TriptychError:
        try:
            return torch.from_numpy(self._eyes.preprocessor.preprocess(image.data, field=image.field))
        except TriptychError as error:
            return error

    @torch.inference_mode()
    def _see(self, pixels: dict[str, Tensor]) -> dict[str, Bytes]:
        if not pixels:
            return {}
        embeddings = self._eyes.encoder.encode(torch.stack(list(pixels.values()))).to(self._dtype).contiguous()
        return {key: e.view(torch.uint8).flatten().numpy() for key, e in zip(pixels, embeddings, strict=True)}
