"""What a cluster is to be: one frozen tree of settings, read once at the edge (`load_spec`)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from triptych.config.choices import LayoutText, OrAuto
from triptych.config.experts import ExpertsSpec
from triptych.config.section import Section
from triptych.config.sections import (
    ExpertBalanceSpec,
    KvCacheSpec,
    RaySpec,
    RouterSpec,
    SchedulerSpec,
    TransferSpec,
)
from triptych.config.stages import AttentionParallel, ExpertParallel, StagesSpec, TensorParallel


class ClusterSpec(Section):
    """A cluster that serves one model."""

    model: str = Field(min_length=1)
    """A folder in Hugging Face layout, a .gguf file, a hub id, or builtin:NAME."""
    served_name: str | None = Field(default=None, min_length=1, max_length=256)
    """Name that clients call the model by; without it, `model`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Element type of the computation; `auto` is bfloat16 where the model and the machine have it."""
    quantization: Literal["none", "int8", "gguf"] = "none"
    """Form of the language model's matrices: as in the checkpoint, int8 made once and kept in the cache directory, or
    the Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K blocks of a .gguf file as they are stored."""
    generation_config: Literal["model", "none"] = "model"
    """Sampling parameters of requests that leave them open: what the model's generation_config.json says
    (temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, and do_sample where it is false), or, with
    `none`, the neutral values, for one answer whatever model is served."""
    adapters: dict[str, Annotated[str, Field(min_length=1)]] = Field(default={})
    """Low-rank adapters (LoRA) that requests choose by name: folders as PEFT saves them. Every prefill and decode
    worker has all of them."""
    context_length: int | None = Field(default=None, ge=2)
    """Tokens of prompt and answer together; without it, and at most, what the model was trained for."""
    layout: Annotated[LayoutText | None, OrAuto()] = None
    """Workers of each stage: 1E1P1D is one each of encode, prefill and decode, and E and P may be left out.
    `auto` is 1D, 1E1D for a model that reads images, and 1E for one that gives embeddings."""
    stages: StagesSpec | None = None
    """Instead of `layout`: the workers with their resources."""
    tensor_parallel: TensorParallel = 1
    """Ranks of each prefill and decode worker that divide every matrix: processes, with some cores each, that compute
    one model together. A stage may say otherwise."""
    expert_parallel: ExpertParallel = 1
    """Ranks that divide the experts of each layer; a worker has `tensor_parallel` times as many."""
    attention_parallel: AttentionParallel = "data"
    """What attention makes of the ranks that divide the experts: with `data` they have requests of their own, with
    `tensor` they divide the heads of the same requests."""
    expert_payload: Literal["plain", "int8", "fp8"] = "plain"
    """What rows travel as, to experts on other ranks and back: as they are, or rounded to eight bits with a scale for
    each row: half the bytes of bfloat16, and answers that differ from those of one rank."""
    expert_balance: ExpertBalanceSpec = ExpertBalanceSpec()
    experts: ExpertsSpec = ExpertsSpec()
    kv_cache: KvCacheSpec = KvCacheSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    router: RouterSpec = RouterSpec()
    transfer: TransferSpec = TransferSpec()
    ray: RaySpec = RaySpec()

    @field_validator("stages")
    @classmethod
    def _instead_of_layout(cls, stages: StagesSpec | None, info: ValidationInfo) -> StagesSpec | None:
        if stages is not None and info.data.get("layout") is not None:
            raise ValueError("cannot be given together with layout")
        return stages

    @field_validator("expert_balance")
    @classmethod
    def _divided(cls, balance: ExpertBalanceSpec, info: ValidationInfo) -> ExpertBalanceSpec:
        stages: StagesSpec | None = info.data.get("stages")
        each = (stages.prefill.expert_parallel, stages.decode.expert_parallel) if stages else ()
        if balance.redundant_experts and max(info.data.get("expert_parallel", 1), *(n or 1 for n in each), 1) == 1:
            raise ValueError("cannot have redundant_experts where expert_parallel is 1: one rank has every expert")
        return balance

    @field_validator("experts")
    @classmethod
    def _alone(cls, experts: ExpertsSpec, info: ValidationInfo) -> ExpertsSpec:
        if experts.regroup and max(info.data.get(name, 1) for name in ("tensor_parallel", "expert_parallel")) > 1:
            raise ValueError("cannot have regroup where workers have several ranks: each has a part of a row's")
        return experts

    @field_validator("adapters")
    @classmethod
    def _named(cls, adapters: dict[str, str]) -> dict[str, str]:
        for name in adapters:
            if not 1 <= len(name) <= 128:
                raise ValueError(f"must have names of 1 to 128 characters, got {name!r:.60}")
        return adapters

    @property
    def adapter_folders(self) -> dict[str, Path]:
        """Where the adapters are; absolute, for workers that run elsewhere in the file system."""
        return {name: Path(folder).absolute() for name, folder in self.adapters.items()}

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.served_name or self.model
