"""From a command to a sequence, with every number checked: one bad prompt must not fail its neighbours' step."""

from collections.abc import Iterable

from triptych.core.errors import InvalidArgument
from triptych.core.generation import OperationKey
from triptych.engine.core import EngineCore
from triptych.engine.prompts import require_fit
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.inference.v1 import sampling_pb2
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.sampling import sampling_from_proto


def checked_sequence(
    key: OperationKey,
    prompt: list[int],
    emitted: list[int],
    media: Iterable[pb.MediaSpan],
    sampling: sampling_pb2.SamplingParams,
    goal: Goal,
    core: EngineCore,
) -> Sequence:
    """A prompt as the engine takes it, its embeddings still elsewhere; perhaps with a complete answer.

    Args:
        key: Whose.
        prompt: Token ids.
        emitted: What the answer has so far: computed like the prompt, and counted as the answer's.
        media: Where the embeddings are, and which positions of the prompt they stand for.
        sampling: How the answer goes on.
        goal: How far.
        core: The engine.

    Raises:
        InvalidArgument: a token id or a media span that the model does not have, or wrong sampling parameters.
        ResourceExhausted: the whole KV pool could not hold it.
        PromptTooLong: the context could not.
    """
    check_tokens(prompt, core.decoder.spec.vocab_size)
    if emitted:
        check_tokens(emitted, core.decoder.spec.vocab_size)
    spans = tuple(media)
    _check_spans(spans, len(prompt), core.decoder.spec.hidden_size)
    core.scheduler.require_room(len(prompt) + 1, key.request_id)
    require_fit(len(prompt), core.capacity)
    params = sampling_from_proto(sampling)
    return Sequence(
        key=key,
        token_ids=prompt + emitted,
        prompt_length=len(prompt),
        params=Sampling.of(params, core.eos_token_ids),
        seed=params.seed or 0,
        limit=core.limit(len(prompt), params.max_tokens),
        goal=goal,
        media=tuple(Media(span.start, span.handle.rows, None, span.handle.content_hash) for span in spans),
    )


def check_tokens(token_ids: list[int], vocabulary: int) -> None:
    """Refuses an empty list and ids that the vocabulary does not have."""
    if not token_ids:
        raise InvalidArgument("there are no tokens", field="token_ids")
    if min(token_ids) < 0 or max(token_ids) >= vocabulary:
        raise InvalidArgument(
            f"token ids must be 0 to {vocabulary - 1}, got {min(token_ids)} to {max(token_ids)}", field="token_ids"
        )


def _check_spans(spans: tuple[pb.MediaSpan, ...], length: int, hidden: int) -> None:
    end = 0
    for span in spans:
        rows, columns = span.handle.rows, span.handle.columns
        if span.start < end or rows < 1 or span.start + rows > length or columns != hidden:
            raise InvalidArgument(
                f"embeddings must be of {hidden} columns and rise within the prompt's {length} tokens, "
                f"got {rows} x {columns} at {span.start}",
                field="media",
            )
        if not span.handle.content_hash:
            raise InvalidArgument("embeddings must be named by a content hash, got none", field="media")
        end = span.start + rows
