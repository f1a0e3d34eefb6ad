"""Embeddings of a handle as a tensor."""

import math

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.stage.v1 import stage_pb2 as pb
from triptych.transfer import EmbeddingHandle, EmbeddingStore, Endpoint, TransferBackend, pull

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Puller:
    """Fetches embeddings from whichever worker keeps them.

    Args:
        backend: How.
        local: The store of this process, if it has one.
    """

    def __init__(self, backend: TransferBackend, local: EmbeddingStore | None) -> None:
        self._backend = backend
        self._local = local

    def __call__(self, handle: pb.EmbeddingHandle) -> Tensor:
        """[1 + levels, rows, columns] of the handle's element type, verified.

        Raises:
            TriptychError: see `triptych.transfer.pull`.
            InvalidArgument: the handle has an element type that is not known.
        """
        dtype = DTYPES.get(handle.dtype)
        if dtype is None:
            raise InvalidArgument(f"embeddings must be float32 or bfloat16, got {handle.dtype!r}", field="dtype")
        shape = (1 + handle.levels, handle.rows, handle.columns)
        data = pull(
            EmbeddingHandle(
                incarnation=handle.incarnation,
                content_hash=handle.content_hash,
                endpoint=Endpoint(handle.endpoint.address, handle.endpoint.host_id),
                size=math.prod(shape) * dtype.itemsize,
                checksum=handle.checksum,
            ),
            backend=self._backend,
            local=self._local,
        )
        return torch.from_numpy(data).view(dtype).view(shape)
