"""The checks of the front door: a request leaves here tokenized, measured and admissible, or with a typed error."""

import asyncio
import uuid
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, TypeVarTuple

from triptych.core.adapters import require_adapter
from triptych.core.errors import InvalidArgument, NotFound, PromptTooLong
from triptych.core.generation import FinishReason
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.plan import Demand
from triptych.core.prompt import Prompt
from triptych.core.resuming import ending, input_digest, require_received
from triptych.core.sampling import SamplingParams, choice_seed, seed_of
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.generation_config import NEUTRAL
from triptych.models.media import MediaLimits
from triptych.models.spec import ModelSpec
from triptych.models.text import TextProcessor
from triptych.router.call import Admitted, CheckedMedia, choice_id
from triptych.router.pictures import PictureCheck

INLINE_LENGTH = 4096  # characters or ids; what is longer is worked on off the event loop
THREADS = 2  # pictures and texts that are looked at together; further ones wait

R = TypeVar("R")
S = TypeVar("S", bound=Sized)
Arguments = TypeVarTuple("Arguments")


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What one request may bring.

    Attributes:
        context_length: Tokens of prompt and answer together.
        max_images: Pictures of one request.
        max_image_pixels: Pixels of one picture, before it is resized.
        max_image_bytes: Encoded bytes of one picture.
        max_linger: Seconds that a request may go on without its client.
    """

    context_length: int
    max_images: int
    max_image_pixels: int
    max_image_bytes: int
    max_linger: float = 60.0


class Intake:
    """Checks and tokenizes, once per request.

    Args:
        model: The name under which the model is served.
        spec: The model's shape.
        text: Its tokenizer and chat template.
        limits: What one request may bring.
        defaults: What the model asks for where a request leaves a sampling parameter open.
        adapters: Names that a request's adapter may have.
    """

    def __init__(
        self,
        model: str,
        spec: ModelSpec,
        text: TextProcessor,
        limits: InputLimits,
        defaults: SamplingParams = NEUTRAL,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self.adapters = adapters
        self.defaults = defaults
        self.model = model
        self.spec = spec
        self.text = text
        self.limits = limits
        self._pictures = PictureCheck(
            model, text.layouts, limits.max_images, MediaLimits(limits.max_image_pixels, limits.max_image_bytes)
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")

    def close(self) -> None:
        """Ends the threads; what waits for one is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def accepts_videos(self) -> bool:
        """Whether chat messages may hold videos."""
        return self.text.layouts is not None and self.text.layouts.video_placeholder is not None

    def require_model(self, name: str) -> None:
        """Refuses any name but the served one.

        Raises:
            NotFound: names the model that is served.
        """
        if name not in ("", self.model):
            raise NotFound(f"model {name!r:.200} is not served here; {self.model!r} is", field="model")

    def require_room(self, prompt_tokens: int, context_length: int) -> None:
        """Refuses a prompt that leaves no room for an answer.

        Raises:
            PromptTooLong: with the limit and the value.
        """
        if prompt_tokens >= context_length:
            raise PromptTooLong(
                f"the context holds {context_length} tokens; the prompt has {prompt_tokens}", field="prompt"
            )

    async def admit(
        self, request: GenerationInput, context_length: int, deadline: float | None
    ) -> tuple[Admitted, IncrementalDetokenizer]:
        """Checks a request; `context_length` is what the workers have room for now.

        Returns:
            The request, and what makes text of its answer, behind the tokens that a client which comes back has.

        Raises:
            NotFound: there is no such model or adapter.
            InvalidArgument: with the field, the limit and the value.
            PromptTooLong: prompt and answer do not fit the context.
            FailedPrecondition: the model cannot do what is asked.
        """
        self.require_model(request.model)
        require_adapter(request.adapter, self.adapters)
        self._require_linger(request.linger_seconds)
        if request.resume is not None:
            _require_id(request.request_id)
            require_received(request.resume, self.spec.decoder.vocab_size, request.sampling.max_tokens)
        images = await self._media(request.prompt)
        prompt = await self._tokenize(request.prompt, images)
        request_id = request.request_id or uuid.uuid4().hex
        length = len(prompt.token_ids)
        sampling = self._sampling(request.sampling, request_id, prompt, context_length)
        ended, detokenizer = await self._go_on(request.resume, sampling)
        admitted = Admitted(
            request_id=request_id,
            prompt=prompt,
            images=images,
            sampling=sampling,
            demand=Demand(length, tuple(image.layout.patches for image in images), request.placement),
            deadline=deadline,
            digest=input_digest(prompt, [image.content_hash for image in images], request.sampling, request.adapter),
            linger=request.linger_seconds,
            received=request.resume,
            ended=ended,
            adapter=request.adapter,
        )
        return admitted, detokenizer

    async def another(
        self, first: Admitted, index: int, received: tuple[int, ...] | None
    ) -> tuple[Admitted, IncrementalDetokenizer]:
        """Answer `index` to a request that was admitted: the same but for its random numbers and what its client has.

        Raises:
            InvalidArgument: what the client says it has is not the beginning of an answer.
        """
        if received is not None:
            field = f"resume.other_choices[{index - 1}].ids"
            require_received(received, self.spec.decoder.vocab_size, first.sampling.max_tokens, field)
        sampling = replace(first.sampling, seed=choice_seed(first.sampling.seed or 0, index))
        ended, detokenizer = await self._go_on(received, sampling)
        request_id = choice_id(first.request_id, index)
        admitted = replace(
            first, request_id=request_id, of=first.request_id, sampling=sampling, received=received, ended=ended
        )
        return admitted, detokenizer

    async def tokenize(self, prompt: PromptInput) -> Prompt:
        """Token ids and image places of a prompt.

        Raises:
            TriptychError: as `admit`.
        """
        return await self._tokenize(prompt, await self._media(prompt))

    async def _tokenize(self, prompt: PromptInput, media: tuple[CheckedMedia, ...]) -> Prompt:
        match prompt:
            case TokenInput(token_ids):
                return await self._sized(token_ids, self.text.token_ids)
            case TextInput(text):
                return await self._sized(text, self.text.text)
            case ChatInput(messages, options):
                return await self._aside(self.text.chat, messages, options, [image.layout for image in media])

    async def detokenize(self, token_ids: Sequence[int], context_length: int) -> str:
        """Token ids to text.

        Raises:
            InvalidArgument: more ids than a context holds, or one outside the vocabulary.
        """
        if len(token_ids) > context_length:
            raise InvalidArgument(
                f"token_ids may hold at most {context_length} ids, which is the context; got {len(token_ids)}",
                field="token_ids",
            )
        return await self._sized(token_ids, self.text.decode)

    async def _go_on(
        self, received: tuple[int, ...] | None, sampling: SamplingParams
    ) -> tuple[FinishReason | None, IncrementalDetokenizer]:
        """Text behind these tokens, and how the answer ends when they are all of it."""
        detokenizer = IncrementalDetokenizer.of(self.text, sampling, self.spec.eos_token_ids)
        if received is None:
            return None, detokenizer
        await self._sized(received, detokenizer.prime)
        return ending(received, sampling, self.spec.eos_token_ids, stopped=detokenizer.stopped), detokenizer

    async def _sized(self, value: S, work: Callable[[S], R]) -> R:
        return work(value) if len(value) <= INLINE_LENGTH else await self._aside(work, value)

    async def _aside(self, work: Callable[[*Arguments], R], *arguments: *Arguments) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _require_linger(self, seconds: float) -> None:
        if seconds > self.limits.max_linger:
            raise InvalidArgument(
                f"a request may go on without its client for at most {self.limits.max_linger:g} s "
                f"(router.max_linger_seconds), got {seconds:g} s",
                field="linger_ms",
            )

    def _sampling(
        self, sampling: SamplingParams, request_id: str, prompt: Prompt, context_length: int
    ) -> SamplingParams:
        """Leaves nothing open; with a fixed seed a replay on another worker continues the same random stream."""
        prompt_tokens = len(prompt.token_ids)
        self.require_room(prompt_tokens, context_length)
        if prompt.reach > context_length:
            raise PromptTooLong(
                f"the context holds {context_length} positions; the prompt's videos take {prompt.reach}",
                field="prompt",
            )
        room = context_length - prompt_tokens
        if (sampling.max_tokens or 0) > room:
            raise PromptTooLong(
                f"the context holds {context_length} tokens; the prompt has {prompt_tokens} "
                f"and max_tokens is {sampling.max_tokens}",
                field="sampling.max_tokens",
            )
        vocabulary = self.spec.decoder.vocab_size
        for token_id in sampling.stop_token_ids:
            if token_id >= vocabulary:
                raise InvalidArgument(
                    f"sampling.stop_token_ids must be below {vocabulary}, got {token_id}",
                    field="sampling.stop_token_ids",
                )
        seed = seed_of(request_id) if sampling.seed is None else sampling.seed
        max_tokens = sampling.max_tokens or min(room, self.defaults.max_tokens or room)
        return replace(sampling.over(self.defaults), seed=seed, max_tokens=max_tokens)

    async def _media(self, prompt: PromptInput) -> tuple[CheckedMedia, ...]:
        parts = self._pictures.parts(prompt)
        return tuple([await self._aside(self._pictures.check, field, part) for field, part in parts])


def _require_id(request_id: str) -> None:
    """An answer goes on under its own id only: where the caller gives no seed, its tokens come from the id."""
    if not request_id:
        raise InvalidArgument("resume needs the request_id of the answer that it goes on with", field="request_id")
