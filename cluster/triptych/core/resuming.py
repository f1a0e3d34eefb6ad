"""A client that comes back: what it has of its answer, whether that is all of it, and what it asked. Pure."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from triptych.core.errors import InvalidArgument
from triptych.core.generation import FinishReason
from triptych.core.prompt import Prompt
from triptych.core.sampling import SamplingParams

FIELD = "resume.received_token_ids"


def require_received(received: Sequence[int], vocabulary: int, max_tokens: int | None, field: str = FIELD) -> None:
    """Refuses what cannot be the beginning of the answer.

    Raises:
        InvalidArgument: more tokens than were asked for, or an id outside the vocabulary.
    """
    if max_tokens is not None and len(received) > max_tokens:
        raise InvalidArgument(
            f"{field} may hold at most {max_tokens} ids, which is sampling.max_tokens; got {len(received)}",
            field=field,
        )
    for place, token_id in enumerate(received):
        if not 0 <= token_id < vocabulary:
            raise InvalidArgument(
                f"{field}[{place}] must be in [0, {vocabulary - 1}], got {token_id}", field=f"{field}[{place}]"
            )


def ending(
    received: Sequence[int], sampling: SamplingParams, eos_token_ids: Iterable[int], *, stopped: bool
) -> FinishReason | None:
    """How the answer ends whose every token was received and whose end was not; None when it goes on.

    Args:
        received: Token ids.
        sampling: With a `max_tokens`.
        eos_token_ids: The model's.
        stopped: The text of these tokens holds a stop text.
    """
    if stopped or (received and received[-1] in sampling.ends(eos_token_ids)):
        return FinishReason.STOP
    if sampling.max_tokens is not None and len(received) >= sampling.max_tokens:
        return FinishReason.LENGTH
    return None


def input_digest(prompt: Prompt, content_hashes: Sequence[str], sampling: SamplingParams, adapter: str = "") -> bytes:
    """SHA-256 of a question: the same for the same prompt, pictures, sampling parameters and adapter."""
    digest = hashlib.sha256(array("i", prompt.token_ids).tobytes())
    digest.update(
        repr((len(prompt.token_ids), prompt.image_spans, tuple(content_hashes), sampling, adapter)).encode()
    )
    return digest.digest()
