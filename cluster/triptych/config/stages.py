"""The workers of a cluster: what they may use, and how the ranks of one divide the model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from triptych.config.choices import OrAuto
from triptych.config.experts import ExpertsSpec
from triptych.config.layout import Layout
from triptych.config.section import Section
from triptych.core.reconcile.roster import MAX_WORKERS

TensorParallel = Annotated[int, Field(ge=1, le=64)]
ExpertParallel = Annotated[int, Field(ge=1, le=256)]
AttentionParallel = Literal["data", "tensor"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of one worker, as a grid of `expert` rows and `tensor` columns.

    Attributes:
        tensor: Ranks that divide each matrix.
        expert: Ranks that divide the experts of a layer.
        attention: Whether the rows have requests of their own, or divide the heads of the same ones.
    """

    tensor: int = 1
    expert: int = 1
    attention: AttentionParallel = "data"

    @property
    def size(self) -> int:
        """How many there are."""
        return self.tensor * self.expert


class StageSpec(Section):
    """The workers of one stage, and what each of them may use."""

    replicas: int = Field(ge=0, le=MAX_WORKERS)
    """Workers of this stage."""
    cpus: Annotated[Annotated[float, Field(gt=0, le=1024)] | None, OrAuto()] = None
    """Processors that Ray sets aside for each rank of a worker; `auto` is an even share of the machine."""
    gpus: float = Field(default=0.0, ge=0, le=64)
    """GPUs that Ray sets aside for each rank; the workers of this version compute on CPU all the same."""
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, OrAuto()] = None
    """Threads that compute in each rank; `auto` gives decode all processors, prefill all but one, encode one."""
    tensor_parallel: Annotated[TensorParallel | None, OrAuto()] = None
    """Ranks of a worker that divide each matrix; `auto` is the cluster's `tensor_parallel`. Prefill and decode may
    differ."""
    expert_parallel: Annotated[ExpertParallel | None, OrAuto()] = None
    """Ranks of a worker that divide the experts of a layer; `auto` is the cluster's `expert_parallel`."""
    attention_parallel: Annotated[AttentionParallel | None, OrAuto()] = None
    """What attention makes of the ranks that divide the experts; `auto` is the cluster's `attention_parallel`."""
    experts: ExpertsSpec | None = None
    """Instead of the cluster's `experts`, all of it."""

    @property
    def divided(self) -> bool:
        """Whether anything is said of ranks."""
        return any((self.tensor_parallel, self.expert_parallel, self.attention_parallel))


class StagesSpec(Section):
    """The workers of a cluster by stage, where a layout says too little."""

    encode: StageSpec = StageSpec(replicas=0)
    """Workers that turn images, or the texts of a model for that, into embeddings; each is one rank."""
    prefill: StageSpec = StageSpec(replicas=0)
    """Workers that read prompts for the decode workers."""
    decode: StageSpec = StageSpec(replicas=1)
    """Workers that write answers, and read prompts where there is no prefill worker; at least one, but for a model
    that gives embeddings."""

    @field_validator("encode")
    @classmethod
    def _whole(cls, encode: StageSpec) -> StageSpec:
        if encode.divided:
            raise ValueError("must not divide its workers over ranks: more `replicas` see more images")
        if encode.experts:
            raise ValueError("must not have experts: its workers never open the language model")
        return encode

    @field_validator("decode")
    @classmethod
    def _has_worker(cls, decode: StageSpec, info: ValidationInfo) -> StageSpec:
        encode, prefill = (info.data.get(stage, StageSpec(replicas=0)).replicas for stage in ("encode", "prefill"))
        if decode.replicas < 1 and (prefill or not encode):
            raise ValueError("must have at least one worker")
        return decode

    @property
    def layout(self) -> Layout:
        """The counts alone."""
        return Layout(self.encode.replicas, self.prefill.replicas, self.decode.replicas)
