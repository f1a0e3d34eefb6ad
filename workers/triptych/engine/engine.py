"""The offline engine: a model in this process, no Ray, no gRPC.

engine = Engine("builtin:smollm2")
for completion in engine.generate(["The capital of France is"], SamplingParams(temperature=0, max_tokens=8)):
    print(completion.text)
"""

import secrets
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal, Self, TypeAlias, TypeVar, cast

from torch import Tensor

from triptych.core.adapters import require_adapter
from triptych.core.errors import FailedPrecondition, InvalidArgument, Unavailable
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.prompt import MediaPart, Prompt
from triptych.core.sampling import SamplingParams, choice_seed
from triptych.engine.answer import Answer, Completion
from triptych.engine.balance import Balancer
from triptych.engine.core import EngineCore
from triptych.engine.expert_fit import settle
from triptych.engine.eyes import Eyes, Shown, place
from triptych.engine.heap import give_back
from triptych.engine.kernels import build_kernels
from triptych.engine.loop import StepFailed, StepOutcome
from triptych.engine.prompts import PromptLike, is_single, media_of, require_fit, tokenize
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.settings import RankSettings, Share
from triptych.engine.runner import ModelRunner
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.sequence import Media, Sequence
from triptych.engine.threads import cores, torch_threads, use_threads
from triptych.experts.settings import OffloadSettings, offload_settings
from triptych.models.adapters import NO_FOLDERS
from triptych.models.generation_config import NEUTRAL, read_sampling_defaults
from triptych.models.media import media_hash
from triptych.models.progress import SILENT, Progress
from triptych.models.resolve import resolve
from triptych.models.text import TextProcessor
from triptych.parallel import AttentionParallelism, Mesh, Parallelism, Payload, RankLost
from triptych.parallel.balance import DEFAULT_POLICY, BalancePolicy

GIB = 1 << 30

_Item = TypeVar("_Item")
_Ending: TypeAlias = "weakref.finalize[..., Engine] | weakref.finalize[..., EngineCore]"


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
        tensor_parallel: Ranks that divide each matrix, attention heads and the vocabulary. Rank 0 is this process;
            the others are children of it, which end with it. They share `threads`; each has a KV cache of
            `kv_cache_memory`.
        expert_parallel: Ranks that divide the experts of a layer; the engine has the product of both numbers.
        attention_parallel: What attention makes of the ranks that divide the experts: whether they have sequences of
            their own (data), or divide the heads as well (tensor).
        expert_payload: What rows travel to experts on other ranks as: plain, or rounded to eight bits (int8, fp8).
        redundant_experts: Further copies of experts in demand that each layer has, with `expert_parallel`.
        expert_balance: When experts move among the ranks that divide them; no answer depends on it.
        expert_offload: How each rank keeps its experts where they do not all fit, or a budget alone: "50%", "1.5GiB",
            bytes, or "auto". None keeps all of them in memory. No answer depends on it, except with `lossy`.
        progress: Hears of downloads and loads.

    Raises:
        TriptychError: the model cannot be found, read, run, or divided like that.
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
        tensor_parallel: int = 1,
        expert_parallel: int = 1,
        attention_parallel: AttentionParallelism = "data",
        expert_payload: Payload = "plain",
        redundant_experts: int = 0,
        expert_balance: BalancePolicy = DEFAULT_POLICY,
        expert_offload: OffloadSettings | str | int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        build_kernels(progress)
        parallelism = Parallelism(
            tensor_parallel, expert_parallel, attention_parallel, expert_payload, redundant_experts
        )
        total = threads or cores()
        self._threads = max(1, total // parallelism.size)  # of a rank
        self._files = resolve(model, progress=progress)
        self._device = device
        given = RankSettings(
            files=self._files,
            parallelism=parallelism,
            dtype=dtype,
            quantization=quantization,
            device=device,
            context_length=context_length,
            kv_memory=kv_cache_memory,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
            adapters={name: Path(folder) for name, folder in adapters.items()},
            threads=use_threads(self._threads),
            balance=expert_balance,
            offload=offload_settings(expert_offload),
        )
        settings = settle(given)
        self._replica = Replica(settings, progress) if parallelism.size > 1 else None
        self._closed: _Ending | None = weakref.finalize(self, self._replica.close) if self._replica else None
        share = self._replica.group.share if self._replica else Share.load(settings, Mesh(), progress)
        self.spec = share.model.spec
        self.text = TextProcessor.load(self._files, self.spec)
        give_back()  # before room is taken below that may never be used: what is made of freed pages is in memory
        self.defaults = read_sampling_defaults(self._files) if generation_config == "model" else NEUTRAL
        self.core = EngineCore(
            share.model.decoder,
            share.pool(),
            self.spec.eos_token_ids,
            share.model.context_length,
            SchedulerOptions(max_batch_tokens, max_running, prefix_caching),
            self._replica.group.runner if self._replica else ModelRunner,
        )
        self._requests = 0
        if share.model.decoder.residency is not None and self._closed is None:
            self._closed = weakref.finalize(self.core, share.close)  # who still has the core may compute

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends further ranks and what reads experts, if there are any. Idempotent; also done when it is collected."""
        if self._closed:
            self._closed()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The processes of further ranks."""
        return self._replica.group.pids if self._replica else ()

    @property
    def balancer(self) -> Balancer | None:
        """Has experts moved among the ranks; None where there are none to move."""
        return self.core.balancer

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
            FailedPrecondition: the engine has been closed, and with it its ranks or its experts.
            Unavailable: experts could not be read; the engine goes on.
        """
        if self._closed and not self._closed.alive:
            raise FailedPrecondition("the engine has been closed")
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
        asked = [self._prompt(prompt) for prompt in many]
        media = self._see(asked, [media_of(prompt) for prompt in many])
        groups = [self._sequences(*one) for one in zip(asked, media, each, adapters, strict=True)]
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
        return Eyes.load(self._files, self.spec, self.core.decoder.dtype, self._device)

    def _see(self, prompts: Sequence_[Prompt], parts: Sequence_[Sequence_[MediaPart]]) -> list[tuple[Media, ...]]:
        """The images and videos of every prompt, each encoded once."""
        names = [[media_hash(part) for part in those] for those in parts]
        rows: Counter[str] = Counter()
        for prompt, own in zip(prompts, names, strict=True):
            rows |= Counter({own[span.image]: span.row + span.length for span in prompt.image_spans})
        every = dict(zip(chain.from_iterable(names), chain.from_iterable(parts), strict=True))
        seen = self._encode({name: Shown(part, rows[name]) for name, part in every.items()})
        return [
            tuple(place(span, own[span.image], seen[own[span.image]]) for span in prompt.image_spans)
            for prompt, own in zip(prompts, names, strict=True)
        ]

    def _encode(self, images: Mapping[str, Shown]) -> Mapping[str, Tensor]:
        """On all ranks; where one is lost, on those that begin anew."""
        while images:
            with torch_threads(self._threads):
                if self._replica is None:
                    return {name: self.eyes.look(image) for name, image in images.items()}
                try:
                    return self._replica.group.eyes.see(images, lambda image: self.eyes.look(image))
                except RankLost as lost:
                    self._begin_anew(lost)
        return {}

    def _settled(self, params: SamplingParams) -> SamplingParams:
        """With a seed, and what the model asks for where a parameter was left open."""
        seed = secrets.randbits(64) if params.seed is None else params.seed
        return replace(
            params.over(self.defaults), seed=seed, max_tokens=params.max_tokens or self.defaults.max_tokens
        )

    def _prompt(self, prompt: PromptLike) -> Prompt:
        tokens = tokenize(prompt, self.text)
        require_fit(len(tokens.token_ids), tokens.reach, self.core.capacity)
        return tokens

    def _sequences(
        self, tokens: Prompt, media: tuple[Media, ...], params: SamplingParams, adapter: str = ""
    ) -> list[Sequence]:
        """One for each answer that is asked for."""
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
        unwritten = [last]

        def write() -> None:
            if unwritten:
                self._write(unwritten.pop(), answers, done)

        outcome = self._compute(write)
        assert outcome or last, "sequences wait, and no step can be made"
        for emitted in outcome.emitted if outcome else ():
            if later:
                for sequence in later.pop(emitted.sequence.key, ()):
                    self.core.scheduler.add(sequence)
            if emitted.finish_reason is not None:
                self.core.scheduler.release(emitted.sequence.key)
        return outcome

    def _compute(self, meanwhile: Callable[[], None]) -> StepOutcome | None:
        """Runs a step; where a rank is lost, on ranks that begin anew with the tokens of all sequences."""
        while True:
            try:
                outcome = self.core.step(meanwhile)
            except StepFailed as failure:
                match failure.__cause__:
                    case RankLost() as lost if self._replica is not None:
                        self._begin_anew(lost)
                    case Unavailable() as error:
                        raise error from error.__cause__
                    case _:
                        raise
            else:
                if self._replica is not None:
                    self._replica.finished()
                return outcome

    def _begin_anew(self, lost: RankLost) -> None:
        assert self._replica is not None, "a single rank is never lost"
        self._replica.rebuild(lost)
        self.core.recover(self._replica.group.share.model.decoder, self._replica.group.runner)

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
