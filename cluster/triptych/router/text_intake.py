"""The checks of the front door for a model that gives embeddings."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

from triptych.core.errors import InvalidArgument, NotFound
from triptych.core.inputs import MAX_TEXTS, EmbeddingInput, TextInput, TokenInput
from triptych.models.embedding.text import EmbeddingText, require_dimensions
from triptych.models.spec import EmbedderSpec
from triptych.router.texts import AdmittedTexts
from triptych.wire.limits import MAX_MESSAGE_BYTES

INLINE_LENGTH = 4096  # characters or ids; what is longer is worked on off the event loop
THREADS = 2
MAX_VECTOR_BYTES = MAX_MESSAGE_BYTES - (1 << 20)  # of one answer; the rest of the message is small


class TextIntake:
    """Checks and tokenizes, once per request.

    Args:
        model: The name under which the model is served.
        spec: What it is.
        text: Its tokenizer.
    """

    def __init__(self, model: str, spec: EmbedderSpec, text: EmbeddingText) -> None:
        self.model = model
        self.spec = spec
        self.text = text
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")

    def close(self) -> None:
        """Ends the threads; what waits for one is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def require_model(self, name: str) -> None:
        """Refuses any name but the served one.

        Raises:
            NotFound: names the model that is served.
        """
        if name not in ("", self.model):
            raise NotFound(f"model {name!r:.200} is not served here; {self.model!r} is", field="model")

    async def admit(self, request: EmbeddingInput, deadline: float | None) -> AdmittedTexts:
        """Checks a request.

        Raises:
            InvalidArgument: with the field, the limit and the value.
            PromptTooLong: a text is longer than the model reads, and may not be cut.
        """
        self.require_model(request.model)
        dimensions = self.spec.size if request.dimensions is None else request.dimensions
        require_dimensions(dimensions, self.spec)
        self._require_count(len(request.inputs), dimensions)
        if sum(_length(item) for item in request.inputs) <= INLINE_LENGTH:
            texts = self._tokenize(request)
        else:
            texts = await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenize, request)
        return AdmittedTexts(request.request_id or uuid.uuid4().hex, texts, dimensions, deadline)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, as the model reads it.

        Raises:
            PromptTooLong: it is longer than that.
        """
        return self.text.encode(text, "text")

    def _tokenize(self, request: EmbeddingInput) -> tuple[tuple[int, ...], ...]:
        return tuple(
            self._tokens(item, f"inputs[{place}]", request.truncate) for place, item in enumerate(request.inputs)
        )

    def _tokens(self, item: TextInput | TokenInput, field: str, truncate: bool) -> tuple[int, ...]:
        match item:
            case TextInput(text):
                return self.text.encode(text, field, truncate=truncate)
            case TokenInput(token_ids):
                return self.text.token_ids(token_ids, field, truncate=truncate)

    def _require_count(self, count: int, dimensions: int) -> None:
        most = min(MAX_TEXTS, MAX_VECTOR_BYTES // (4 * dimensions))
        if not 1 <= count <= most:
            raise InvalidArgument(f"inputs must hold 1 to {most} texts, got {count}", field="inputs")


def _length(item: TextInput | TokenInput) -> int:
    return len(item.text) if isinstance(item, TextInput) else len(item.token_ids)
