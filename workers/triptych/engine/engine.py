"""The offline engine: a model in this process, no Ray, no gRPC.

engine = Engine("builtin:smollm2")
for completion in engine.generate(["The capital of France is"], SamplingParams(temperature=0, max_tokens=8)):
    print(completion.text)
"""

import secrets
from collections.abc import Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch

from triptych.core.adapters import require_adapter
from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.prompt import MediaPart, Prompt
from triptych.core.sampling import SamplingParams, choice_seed
from triptych.engine.answer import Answer, Completion
from triptych.engine.core import EngineCore, kv_blocks
from triptych.engine.eyes import Eyes, place
from triptych.engine.kernels import build_kernels
from triptych.engine.loading import load_model
from triptych.engine.loop import StepOutcome
from triptych.engine.prompts import PromptLike, is_single, media_of, require_fit, tokenize
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.sequence import Media, Sequence
from triptych.engine.threads import torch_threads, use_threads
from triptych.models.adapters import NO_FOLDERS
from triptych.models.generation_config import NEUTRAL, read_sampling_defaults
from triptych.models.media import media_hash
from triptych.models.progress import SILENT, Progress
from triptych.models.resolve import resolve
from triptych.models.text import TextProcessor

GIB = 1 << 30

_Item = TypeVar("_Item")


class Engine:
    """Generates with one model, batching whatever it is given.

    Args:
        model: A folder, a .gguf file, a hub id or builtin:NAME.
        dtype: auto, float32 or bfloat16.
        quantization: Of the language model's matrices: none, int8, or gguf (the blocks of a .gguf file as stored).
        generation_config: Whether sampling parameters that are left open take what the model's generation_config.json
            says, or the neutral values.
        adapters: Folders of low-rank adapters as PEFT saves them, by the names that `generate` calls them.
        context_length: Upper bound of prompt and answer together; None means the model's own.
        kv_cache_memory: Bytes of the KV cache.
        block_size: Tokens per KV block.
        max_batch_tokens: Rows of one step.
        max_running: Sequences of one step.
        prefix_caching: Whether prompts that begin alike share the KV of their beginning.
        threads: Threads of the computation, which engines of one process share; None means one per core. They are
            the C++ team's: torch is set to a single thread in this process.
        device: A torch device.
        progress: Hears of downloads and loads.

    Raises:
        TriptychError: the model cannot be found, read or run.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        quantization: str = "none",
        generation_config: Literal["model", "none"] = "model",
        adapters: Mapping[str, str | Path] = NO_FOLDERS,
        context_length: int | None = None,
        kv_cache_memory: int = GIB,
        block_size: int = 16,
        max_batch_tokens: int = 512,
        max_running: int = 64,
        prefix_caching: bool = True,
        threads: int | None = None,
        device: str = "cpu",
        progress: Progress = SILENT,
    ) -> None:
        build_kernels(progress)
        self._threads = use_threads(threads)
        self._files = resolve(model, progress=progress)
        self._device = device
        folders = {name: Path(folder) for name, folder in adapters.items()}
        self._loaded = load_model(
            self._files,
            dtype,
            quantization,
            device,
            context=context_length,
            kv_memory=kv_cache_memory,
            adapters=folders,
            progress=progress,
        )
        self.spec = self._loaded.spec
        self.text = TextProcessor.load(self._files, self.spec)
        self.defaults = read_sampling_defaults(self._files) if generation_config == "model" else NEUTRAL
        decoder = self._loaded.decoder
        blocks = kv_blocks(decoder, block_size, self._loaded.dtype, kv_cache_memory)
        kv = torch.empty(decoder.kv_shape(blocks, block_size), dtype=self._loaded.dtype, device=device)
        self.core = EngineCore(
            decoder,
            kv,
            self.spec.eos_token_ids,
            self._loaded.context_length,
            SchedulerOptions(max_batch_tokens, max_running, prefix_caching),
        )
        self._requests = 0

    def generate(
        self,
        prompts: PromptLike | Sequence_[PromptLike],
        params: SamplingParams | Sequence_[SamplingParams] | None = None,
        *,
        adapter: str | Sequence_[str] = "",
    ) -> list[Completion]:
        """Completes every prompt, in one batch.

        Args:
            prompts: One prompt or several; each a text, token ids or the messages of a chat, which may hold images.
            params: One for all, or one per prompt; None samples with the defaults.
            adapter: Name of the adapter for all, or one per prompt; empty for the model as it is.

        Returns:
            The completions, in the order of the prompts. Where `n` asks for several, each holds the others.

        Raises:
            InvalidArgument: a prompt is empty, too long, or does not suit the model.
            NotFound: there is no such adapter.
        """
        many = [cast(PromptLike, prompts)] if is_single(prompts) else list(cast(Sequence_[PromptLike], prompts))
        params = SamplingParams() if params is None else params
        each = _one_each(params, SamplingParams, len(many), "SamplingParams", "params")
        adapters = _one_each(adapter, str, len(many), "adapters", "adapter")
        for name in adapters:
            require_adapter(name, self.core.decoder.adapters)
        answers: dict[OperationKey, Answer] = {}
        done: dict[OperationKey, Completion] = {}
        later: dict[OperationKey, list[Sequence]] = {}
        each = [self._settled(p) for p in each]
        groups = [self._sequences(*one) for one in zip(many, each, adapters, strict=True)]
        try:
            for group, p in zip(groups, each, strict=True):
                for sequence in group:
                    answers[sequence.key] = Answer(tuple(sequence.token_ids), p, self.text, self.spec.eos_token_ids)
                self.core.scheduler.add(group[0])
                later |= {group[0].key: group[1:]} if len(group) > 1 else {}
            last: StepOutcome | None = None
            while len(done) < len(answers):
                last = self._step(last, answers, done, later)
        finally:
            for sequence in (sequence for group in groups for sequence in group):
                self.core.scheduler.release(sequence.key)
        return [_together([done[sequence.key] for sequence in group]) for group in groups]

    @cached_property
    def eyes(self) -> Eyes:
        """The vision tower, read at the first image."""
        if self.spec.vision is None:
            raise FailedPrecondition(f"{self._files.name} takes no images", field="prompt")
        return Eyes.load(self._files, self.spec, self._loaded.dtype, self._device)

    def _see(self, prompt: Prompt, parts: Sequence_[MediaPart]) -> tuple[Media, ...]:
        """The images and videos of a prompt, each encoded once."""
        if not parts:
            return ()
        names = [media_hash(part) for part in parts]
        with torch_threads(self._threads):
            seen = {
                n: self.eyes.see(self.eyes.prepare(p, "image"))
                for n, p in dict(zip(names, parts, strict=True)).items()
            }
        return tuple(place(span, names[span.image], seen[names[span.image]]) for span in prompt.image_spans)

    def _settled(self, params: SamplingParams) -> SamplingParams:
        """With a seed, and what the model asks for where a parameter was left open."""
        seed = secrets.randbits(64) if params.seed is None else params.seed
        return replace(
            params.over(self.defaults), seed=seed, max_tokens=params.max_tokens or self.defaults.max_tokens
        )

    def _sequences(self, prompt: PromptLike, params: SamplingParams, adapter: str = "") -> list[Sequence]:
        """One for each answer that is asked for."""
        tokens = tokenize(prompt, self.text)
        require_fit(len(tokens.token_ids), tokens.reach, self.core.capacity)
        media = self._see(tokens, media_of(prompt))
        sampling = Sampling.of(params, self.spec.eos_token_ids)
        self._requests += 1
        return [
            Sequence(
                key=OperationKey(f"offline-{self._requests}-{index}"),
                token_ids=list(tokens.token_ids),
                prompt_length=len(tokens.token_ids),
                params=sampling,
                seed=choice_seed(params.seed or 0, index),
                limit=self.core.limit(len(tokens.token_ids), params.max_tokens),
                media=media,
                adapter=adapter,
            )
            for index in range(params.n)
        ]

    def _step(
        self,
        last: StepOutcome | None,
        answers: dict[OperationKey, Answer],
        done: dict[OperationKey, Completion],
        later: dict[OperationKey, list[Sequence]],
    ) -> StepOutcome | None:
        """Runs a step; the text of the one before is made while it computes.

        Further answers to a prompt begin behind the first one's first token: they find its KV in the prefix cache.
        """
        outcome = self.core.step(lambda: self._write(last, answers, done))
        assert outcome or last, "sequences wait, and no step can be made"
        for emitted in outcome.emitted if outcome else ():
            if later:
                for sequence in later.pop(emitted.sequence.key, ()):
                    self.core.scheduler.add(sequence)
            if emitted.finish_reason is not None:
                self.core.scheduler.release(emitted.sequence.key)
        return outcome

    def _write(
        self, outcome: StepOutcome | None, answers: dict[OperationKey, Answer], done: dict[OperationKey, Completion]
    ) -> None:
        """Appends a step's tokens to their answers; one that a stop text ends gets none from the step under way."""
        for sequence, _, token_id, reason, logprobs in outcome.emitted if outcome else ():
            if answers[sequence.key].push(token_id, logprobs):
                reason = FinishReason.STOP
                self.core.scheduler.release(sequence.key)
            if reason is not None:
                done[sequence.key] = answers[sequence.key].finish(reason)


def _one_each(given: _Item | Sequence_[_Item], kind: type[_Item], prompts: int, what: str, field: str) -> list[_Item]:
    each = [given] * prompts if isinstance(given, kind) else list(cast(Sequence_[_Item], given))
    if len(each) != prompts:
        raise InvalidArgument(f"{prompts} prompts need as many {what}, got {len(each)}", field=field)
    return each


def _together(answers: list[Completion]) -> Completion:
    """The first answer, holding the others."""
    return replace(answers[0], others=tuple(answers[1:])) if len(answers) > 1 else answers[0]
