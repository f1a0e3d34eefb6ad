"""The new pictures of several requests, divided among the ranks of a worker that sees by itself."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from triptych.core.encoding.job import Batch
from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.core.prompt import ImagePart, MediaPart, VideoPart
from triptych.engine.eyes import Eyes, Shown
from triptych.engine.ranks.seeing import DividedEyes
from triptych.engine.threads import torch_threads
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.encode_batch import Encoded, EncodeJob, Shape
from triptych.transfer.segment import Bytes


@dataclass(slots=True)
class DividedBatchEncoder:
    """Turns pictures into embedding bytes on all ranks of a worker; see `BatchEncoder`.

    Attributes:
        shape: Of the embeddings.
        eyes: Vision tower and preprocessing of rank 0.
        ranks: Deals pictures out.
        threads: Of each rank's vision tower.
        passes: Pictures that have passed a vision tower.
    """

    shape: Shape
    eyes: Eyes
    ranks: DividedEyes
    threads: int
    passes: int = field(default=0, init=False)

    def encode(self, batch: Batch[EncodeJob]) -> Encoded:
        """Encodes each new picture once, on one rank; a bad one fails the requests that sent it, no other.

        Raises:
            RankLost: a rank is gone.
        """
        began = time.monotonic()
        images = {
            image.content_hash: Shown(_part(image), image.rows, image.field)
            for job in reversed(batch.jobs)  # a bad picture is called what the first request calls it
            for image in job.encode.images
            if image.content_hash in batch.pictures
        }
        with torch_threads(self.threads):
            found = self.ranks.try_all(images, self.eyes.look)
        seen = {name: result for name, result in found.items() if isinstance(result, Tensor)}
        errors = {name: result for name, result in found.items() if isinstance(result, TriptychError)}
        self.passes += len(seen)
        data = {name: self._bytes(embedding) for name, embedding in seen.items()}
        return Encoded(data, _failures(batch, errors), began, time.monotonic())

    @torch.inference_mode()
    def _bytes(self, embedding: Tensor) -> Bytes:
        return embedding.to(self.shape.dtype).contiguous().view(-1).view(torch.uint8).numpy()


def _part(image: pb.EncodeImage) -> MediaPart:
    return VideoPart(tuple(image.frames), image.fps) if image.frames else ImagePart(image.data)


def _failures(batch: Batch[EncodeJob], errors: dict[str, TriptychError]) -> dict[OperationKey, TriptychError]:
    """Of each request, the error of its first bad picture."""
    failed: dict[OperationKey, TriptychError] = {}
    for job in batch.jobs:
        found = (errors[image.content_hash] for image in job.encode.images if image.content_hash in errors)
        if error := next(found, None):
            failed[job.key] = error
    return failed
