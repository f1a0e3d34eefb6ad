"""Vectors of texts: the request and what comes back, shared by both clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from triptych.core.errors import Internal, InvalidArgument
from triptych.core.inputs import EmbeddingInput, TextInput, TokenInput
from triptych.core.usage import Span, Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.embedding import embedding_to_proto
from triptych.wire.generation import timeline_from_proto, usage_from_proto

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TextsLike = str | Sequence[str] | Sequence[Sequence[int]]
"""One text, several, or their token ids."""


class EmbedOptions(TypedDict, total=False):
    """Keywords of `embed`.

    Attributes:
        model: Name of the model; empty means the one that is served.
        request_id: An id of the caller's choice, unique among running requests.
        truncate: Whether a text that is longer than the model reads loses its end; otherwise it is refused.
        dimensions: Numbers of a vector, the first ones, for models that were trained for it.
        timeout: Seconds until the deadline.
    """

    model: str
    request_id: str
    truncate: bool
    dimensions: int | None
    timeout: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: [texts, dimensions] float32, in the order of the texts; read-only.
        token_counts: Tokens of each text as the model read it, special ones included.
        usage: Of all texts together.
        timeline: Where the time went, by worker.
    """

    request_id: str
    model: str
    vectors: "NDArray[np.float32]"
    token_counts: tuple[int, ...]
    usage: Usage
    timeline: tuple[Span, ...]

    def __len__(self) -> int:
        """Texts."""
        return len(self.vectors)


def embed_request(texts: TextsLike, options: EmbedOptions) -> pb.EmbedRequest:
    """The message that asks for vectors.

    Raises:
        InvalidArgument: a text is none, or an option has an impossible value.
    """
    many: Sequence[str | Sequence[int]] = [texts] if isinstance(texts, str) else texts
    return embedding_to_proto(
        EmbeddingInput(
            inputs=tuple(_input(place, item) for place, item in enumerate(many)),
            model=options.get("model", ""),
            request_id=options.get("request_id", ""),
            truncate=options.get("truncate", False),
            dimensions=options.get("dimensions"),
        )
    )


def embeddings_from_proto(message: pb.EmbedResponse) -> Embeddings:
    """What an InferenceService answers.

    Raises:
        Internal: it has not one vector for each text.
    """
    import numpy as np  # clients that only generate do without it

    counts = tuple(message.token_counts)
    if len(message.values) != len(counts) * message.dimensions:
        raise Internal(
            f"the server sent {len(message.values)} numbers for {len(counts)} vectors of {message.dimensions}",
            request_id=message.request_id,
        )
    vectors = np.fromiter(message.values, np.float32, len(message.values)).reshape(len(counts), message.dimensions)
    vectors.flags.writeable = False
    return Embeddings(
        message.request_id,
        message.model,
        vectors,
        counts,
        usage_from_proto(message.usage),
        timeline_from_proto(message.timeline),
    )


def _input(place: int, item: str | Sequence[int]) -> TextInput | TokenInput:
    if isinstance(item, str):
        return TextInput(item)
    try:
        return TokenInput(tuple(item))
    except TypeError:
        raise InvalidArgument(
            f"texts[{place}] must be a text or token ids, got {type(item).__name__}", field=f"inputs[{place}]"
        ) from None
