"""What a caller asks of the cluster: a prompt in one of three forms, and how to answer it."""

from dataclasses import dataclass, field

from triptych.core.chat import NO_OPTIONS, ChatOptions
from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage
from triptych.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class TextInput:
    """Plain text, tokenized without a chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation, rendered by the model's chat template."""

    messages: tuple[ChatMessage, ...]
    options: ChatOptions = NO_OPTIONS


PromptInput = TextInput | TokenInput | ChatInput


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """One generation, as its caller asks for it.

    Attributes:
        prompt: What to answer.
        sampling: How to choose each token.
        model: Name of the model; empty means the one that is served.
        request_id: The caller's id, unique among running requests; empty lets the server choose.
        placement: Which stages may serve it.
        linger_seconds: How long it goes on when its client's connection has ended; 0 ends it at once.
        resume: Token ids of the answer that a client which comes back has already; None for a new request.
        resume_others: The same of answers 1 to n - 1, as far as it has any.
        adapter: Name of the low-rank adapter that answers; empty for the model as it is.
    """

    prompt: PromptInput
    sampling: SamplingParams = field(default_factory=SamplingParams)
    model: str = ""
    request_id: str = ""
    placement: Placement = Placement.ANY
    linger_seconds: float = 0.0
    resume: tuple[int, ...] | None = None
    resume_others: tuple[tuple[int, ...], ...] = ()
    adapter: str = ""

    def received(self, index: int) -> tuple[int, ...] | None:
        """What the client has of answer `index`; None for a new request."""
        if self.resume is None or not index:
            return self.resume
        return self.resume_others[index - 1] if index <= len(self.resume_others) else ()


MAX_TEXTS = 2048
"""Texts of one request for embeddings."""


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """What a caller asks of a model that gives embeddings.

    Attributes:
        inputs: Texts, or their token ids.
        model: Its name; empty means the one that is served.
        request_id: The caller's; empty lets the server choose.
        truncate: Whether a text that is too long loses its end.
        dimensions: Numbers of a vector, the first ones; None means all.
    """

    inputs: tuple[TextInput | TokenInput, ...]
    model: str = ""
    request_id: str = ""
    truncate: bool = False
    dimensions: int | None = None
