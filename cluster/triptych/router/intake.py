"""The checks of the front door: a request leaves here tokenized, measured and admissible, or with a typed error."""

import asyncio
import secrets
import uuid
from dataclasses import dataclass, replace

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound, PromptTooLong
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.plan import Demand
from triptych.core.prompt import ImagePart, Prompt
from triptych.core.sampling import SamplingParams
from triptych.models.images import check_image, content_hash
from triptych.models.spec import ModelSpec
from triptych.models.text import TextProcessor
from triptych.router.call import Admitted, CheckedImage

INLINE_CHARACTERS = 4096  # a longer text is tokenized off the event loop


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What one request may bring.

    Attributes:
        context_length: Tokens of prompt and answer together.
        max_images: Pictures of one request.
        max_image_pixels: Pixels of one picture, before it is resized.
        max_image_bytes: Encoded bytes of one picture.
    """

    context_length: int
    max_images: int
    max_image_pixels: int
    max_image_bytes: int


class Intake:
    """Checks and tokenizes, once per request.

    Args:
        model: The name under which the model is served.
        spec: The model's shape.
        text: Its tokenizer and chat template.
        limits: What one request may bring.
    """

    def __init__(self, model: str, spec: ModelSpec, text: TextProcessor, limits: InputLimits) -> None:
        self.model = model
        self.spec = spec
        self.text = text
        self.limits = limits

    def require_model(self, name: str) -> None:
        """Refuses any name but the served one.

        Raises:
            NotFound: names the model that is served.
        """
        if name not in ("", self.model):
            raise NotFound(f"model {name!r:.200} is not served here; {self.model!r} is", field="model")

    async def admit(self, request: GenerationInput, deadline: float | None) -> Admitted:
        """Checks a request.

        Raises:
            InvalidArgument: with the field, the limit and the value.
            PromptTooLong: prompt and answer do not fit the context.
            FailedPrecondition: the model cannot do what is asked.
        """
        self.require_model(request.model)
        images = await self._images(request.prompt)
        prompt = await self.tokenize(request.prompt)
        length = len(prompt.token_ids)
        sampling = self._sampling(request.sampling, length)
        return Admitted(
            request_id=request.request_id or uuid.uuid4().hex,
            prompt=prompt,
            images=images,
            sampling=sampling,
            demand=Demand(length, len(images), request.placement),
            deadline=deadline,
        )

    async def tokenize(self, prompt: PromptInput) -> Prompt:
        """Token ids and image places of a prompt."""
        match prompt:
            case TokenInput(token_ids):
                return self.text.token_ids(token_ids)
            case TextInput(text) if len(text) <= INLINE_CHARACTERS:
                return self.text.text(text)
            case TextInput(text):
                return await asyncio.to_thread(self.text.text, text)
            case ChatInput(messages):
                return await asyncio.to_thread(self.text.chat, messages)

    def _sampling(self, sampling: SamplingParams, prompt_tokens: int) -> SamplingParams:
        """Draws the seed here, so that a replay on another worker continues the same random stream."""
        room = self.limits.context_length - prompt_tokens
        if room < 1 or (sampling.max_tokens or 0) > room:
            asked = f" and max_tokens is {sampling.max_tokens}" if sampling.max_tokens else ""
            raise PromptTooLong(
                f"the context holds {self.limits.context_length} tokens; the prompt has {prompt_tokens}{asked}",
                field="prompt" if room < 1 else "sampling.max_tokens",
            )
        vocabulary = self.spec.decoder.vocab_size
        for token_id in sampling.stop_token_ids:
            if token_id >= vocabulary:
                raise InvalidArgument(
                    f"sampling.stop_token_ids must be below {vocabulary}, got {token_id}",
                    field="sampling.stop_token_ids",
                )
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        return replace(sampling, seed=seed, max_tokens=sampling.max_tokens or room)

    async def _images(self, prompt: PromptInput) -> tuple[CheckedImage, ...]:
        if not isinstance(prompt, ChatInput):
            return ()
        parts = [
            (f"chat.messages[{m}].parts[{p}].image", part.data)
            for m, message in enumerate(prompt.messages)
            for p, part in enumerate(message.parts)
            if isinstance(part, ImagePart)
        ]
        if parts and self.spec.vision is None:
            raise FailedPrecondition(f"{self.model} reads text only; it was sent an image", field=parts[0][0])
        if len(parts) > self.limits.max_images:
            raise InvalidArgument(
                f"a request may hold at most {self.limits.max_images} images, got {len(parts)}", field="chat.messages"
            )
        return tuple([await asyncio.to_thread(self._check, field, data) for field, data in parts])

    def _check(self, field: str, data: bytes) -> CheckedImage:
        check_image(data, max_pixels=self.limits.max_image_pixels, max_bytes=self.limits.max_image_bytes, field=field)
        return CheckedImage(data, content_hash(data), field)
