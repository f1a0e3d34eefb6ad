"""Where the tokens and the time of one request went."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    Attributes:
        prompt_tokens: Every position of the prompt.
        completion_tokens: Generated tokens.
        image_tokens: The part of `prompt_tokens` that stands for images.
        cached_tokens: The part of `prompt_tokens` found computed, because an earlier request began alike.
        replays: How often the request was begun anew after a worker was lost, failed or drained.
    """

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0
    cached_tokens: int = 0
    replays: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of a request's way through the stages, as the router saw it.

    Attributes:
        name: "queue", "encode", "reserve", "embeddings", "prefill", "kv transfer", "first token", "decode" or
            "replay", which spans the pause between two attempts.
        worker: Who did it; empty for the router.
        start_us: Microseconds after the router accepted the request.
        duration_us: Microseconds.
    """

    name: str
    worker: str
    start_us: int
    duration_us: int
