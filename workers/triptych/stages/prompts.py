"""From a command to a sequence, with every number checked: one bad prompt must not fail its neighbours' step."""

from triptych.core.adapters import require_adapter
from triptych.core.errors import InvalidArgument
from triptych.core.generation import OperationKey
from triptych.core.positions import reach
from triptych.engine.core import EngineCore
from triptych.engine.prompts import require_fit
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.spans import check_spans, media_of
from triptych.wire.sampling import sampling_from_proto


def checked_sequence(
    key: OperationKey, request: pb.Prefill | pb.Reserve, prompt: list[int], goal: Goal, core: EngineCore
) -> Sequence:
    """A prompt as the engine takes it, its embeddings still elsewhere; perhaps with a complete answer.

    Args:
        key: Whose.
        request: Says the rest: what the answer has so far is computed like the prompt, and counted as the answer's.
        prompt: Its token ids.
        goal: How far.
        core: The engine.

    Raises:
        NotFound: there is no such adapter.
        InvalidArgument: a token id or a media span that the model does not have, or wrong sampling parameters.
        ResourceExhausted: the whole KV pool could not hold it, or no step one of its images.
        PromptTooLong: the context could not.
    """
    require_adapter(request.adapter, core.decoder.adapters)
    emitted = list(request.emitted_token_ids)
    media = _checked_media(key, prompt, emitted, tuple(request.media), core)
    params = sampling_from_proto(request.sampling)
    return Sequence(
        key=key,
        token_ids=prompt + emitted,
        prompt_length=len(prompt),
        params=Sampling.of(params, core.eos_token_ids),
        seed=params.seed or 0,
        limit=core.limit(len(prompt), params.max_tokens),
        goal=goal,
        media=media,
        adapter=request.adapter,
    )


def _checked_media(
    key: OperationKey, prompt: list[int], emitted: list[int], spans: tuple[pb.MediaSpan, ...], core: EngineCore
) -> tuple[Media, ...]:
    """What stands for tokens, once all that is to be computed is known to be valid and to have room."""
    check_tokens(prompt, core.decoder.spec.vocab_size)
    if emitted:
        check_tokens(emitted, core.decoder.spec.vocab_size)
    check_spans(spans, len(prompt), core.decoder.spec)
    media = tuple(media_of(span) for span in spans)
    core.scheduler.require_room(len(prompt) + 1, key.request_id)
    core.scheduler.require_whole(media, key.request_id)
    require_fit(len(prompt), reach(media, len(prompt)), core.capacity)
    return media


def check_tokens(token_ids: list[int], vocabulary: int) -> None:
    """Refuses an empty list and ids that the vocabulary does not have."""
    if not token_ids:
        raise InvalidArgument("there are no tokens", field="token_ids")
    if min(token_ids) < 0 or max(token_ids) >= vocabulary:
        raise InvalidArgument(
            f"token ids must be 0 to {vocabulary - 1}, got {min(token_ids)} to {max(token_ids)}", field="token_ids"
        )
