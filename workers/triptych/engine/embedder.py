"""Offline embeddings: a text encoder in this process, no Ray, no gRPC.

embedder = Embedder("builtin:minilm")
vectors = embedder.embed(["A cat sits on the mat.", "A feline rests."])
print(vectors @ vectors.T)
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from triptych.engine.dtypes import choose_dtype
from triptych.engine.kernels import build_kernels
from triptych.engine.threads import torch_threads, use_threads
from triptych.models.config import read_config
from triptych.models.embedding.embedder import TextEmbedder
from triptych.models.embedding.layout import linear_parameters
from triptych.models.embedding.packing import pack
from triptych.models.embedding.pooling import shortened
from triptych.models.embedding.reading import read_embedder
from triptych.models.embedding.text import EmbeddingText, require_dimensions
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.resolve import resolve
from triptych.models.spec import EmbedderSpec

BATCH_TOKENS = 4096
"""Most rows that pass the encoder together: enough to keep matrix products busy, few enough to stay in the caches."""
BATCH_PRODUCTS = 40_000_000_000
"""Multiplications of a batch: about a second of a core, so that a worker is soon heard of and free for others."""


class Embedder:
    """Turns texts into vectors with one model.

    Args:
        model: A folder, a hub id or builtin:NAME.
        dtype: auto, float32 or bfloat16; auto is what the model's configuration says, else float32.
        threads: Threads of the computation; None means one per core.
        device: A torch device.
        progress: Hears of downloads and loads.

    Raises:
        TriptychError: the model cannot be found or read, or gives no embeddings.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        threads: int | None = None,
        device: str = "cpu",
        progress: Progress = SILENT,
    ) -> None:
        build_kernels(progress)
        self._threads = use_threads(threads)
        files = resolve(model, progress=progress)
        self._model = load_embedder(files, dtype, device, progress=progress)
        self.spec = self._model.spec
        self.text = EmbeddingText.load(files, self.spec)

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector for each text, as sentence-transformers' `encode` gives it.

        Args:
            texts: One text or several, or token ids with their special tokens.
            truncate: Whether a text that is too long loses its end.
            dimensions: Numbers of a vector, the first ones, for models that were trained for it; None for all.

        Returns:
            [N, D], in the order of the texts; [D] for a single text.

        Raises:
            PromptTooLong: a text has more tokens than the model reads, and may not be cut.
            InvalidArgument: a text is not Unicode, a token id is none, or the vectors have not so many numbers.
        """
        if dimensions is not None:
            require_dimensions(dimensions, self.spec)
        many: Sequence[str | Sequence[int]] = [texts] if isinstance(texts, str) else texts
        ids = [self._tokens(text, f"texts[{place}]", truncate) for place, text in enumerate(many)]
        vectors = np.empty((len(ids), self.spec.size), np.float32)
        with torch_threads(self._threads):
            for batch in pack([len(text) for text in ids], batch_tokens(self.spec)):
                vectors[batch] = self._model.embed([ids[index] for index in batch]).cpu().numpy()
        vectors = shortened(vectors, dimensions or 0, normalise=self.spec.normalise)
        return vectors[0] if isinstance(texts, str) else vectors

    def _tokens(self, text: str | Sequence[int], field: str, truncate: bool) -> tuple[int, ...]:
        if isinstance(text, str):
            return self.text.encode(text, field, truncate=truncate)
        return self.text.token_ids(text, field, truncate=truncate)


def load_embedder(
    files: ModelFiles, dtype: str = "auto", device: str = "cpu", *, progress: Progress = SILENT
) -> TextEmbedder:
    """Reads an embedding model.

    Raises:
        InvalidArgument: dtype is none of auto, float32 and bfloat16.
        TriptychError: as `read_embedder` and `TextEmbedder.load`.
    """
    spec = read_embedder(files)
    return TextEmbedder.load(files, spec, embedder_dtype(dtype, files, device), device, progress=progress)


def batch_tokens(spec: EmbedderSpec) -> int:
    """Rows that pass an encoder together: the fewer the larger it is."""
    return max(1, min(BATCH_TOKENS, BATCH_PRODUCTS // linear_parameters(spec)))


def embedder_dtype(name: str, files: ModelFiles, device: str = "cpu") -> torch.dtype:
    """The type asked for; "auto" is the one that the model's configuration names, else float32.

    Vectors are compared by small differences: half the digits only where the model's makers chose so.

    Raises:
        InvalidArgument: the name is none of auto, float32, bfloat16.
    """
    config = read_config(files)
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    return choose_dtype(name, {"dtype": stored}, device)
