"""The sections of a cluster's settings. The texts under the fields are the reference in docs/configuration.md."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from triptych.config.choices import Address, OrAuto, say_auto
from triptych.config.layout import Layout
from triptych.config.sizes import GIB, MIB, ByteRange
from triptych.core.reconcile.roster import MAX_WORKERS
from triptych.wire.limits import MAX_MESSAGE_BYTES


class Section(BaseModel):
    """A group of settings: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, json_schema_extra=say_auto
    )


class StageSpec(Section):
    """The workers of one stage, and what each of them may use."""

    replicas: int = Field(ge=0, le=MAX_WORKERS)
    """Workers of this stage."""
    cpus: Annotated[Annotated[float, Field(gt=0, le=1024)] | None, OrAuto()] = None
    """Processors that Ray sets aside for each worker; `auto` is an even share of the machine."""
    gpus: float = Field(default=0.0, ge=0, le=64)
    """GPUs that Ray sets aside for each worker; the workers of this version compute on CPU all the same."""
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, OrAuto()] = None
    """Threads that compute in each worker; `auto` gives decode all processors, prefill all but one, encode one."""


class StagesSpec(Section):
    """The workers of a cluster by stage, where a layout says too little."""

    encode: StageSpec = StageSpec(replicas=0)
    """Workers that turn images, or the texts of a model for that, into embeddings."""
    prefill: StageSpec = StageSpec(replicas=0)
    """Workers that read prompts for the decode workers."""
    decode: StageSpec = StageSpec(replicas=1)
    """Workers that write answers, and read prompts where there is no prefill worker; at least one, but for a model
    that gives embeddings."""

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


class KvCacheSpec(Section):
    """The paged KV cache of each prefill and decode worker."""

    block_size: int = Field(default=16, ge=1, le=256)
    """Tokens of a block, the unit of allocation and transfer. The compiled attention takes multiples of 16; with
    other sizes, or a model whose heads are no multiple of 16, torch attends and steps are not replayed: slower."""
    memory: Annotated[int | None, ByteRange(MIB, 1024 * GIB), OrAuto()] = None
    """Size per worker; `auto` is 1GiB, or a sixteenth of the machine's memory if that is less."""
    prefix_caching: bool = True
    """Prompts that begin alike share the KV of their beginning, which stays until its blocks are needed. Answers are
    the same without it in float32 and with int8; in bfloat16 and with gguf two tokens almost as likely as each other
    may change places, as they may with the size of a batch."""

    def memory_on(self, machine_bytes: int) -> int:
        """Bytes of one worker's cache on a machine with that much memory."""
        return self.memory if self.memory is not None else max(MIB, min(GIB, machine_bytes // 16))


class SchedulerSpec(Section):
    """What one step of a worker may hold."""

    max_batch_tokens: int = Field(default=512, ge=16, le=65536)
    """Tokens of a step; a longer prompt is read over several steps."""
    max_running: int = Field(default=64, ge=1, le=4096)
    """Requests that a worker computes at once; others wait. Fewer than `max_batch_tokens`, the default too."""

    @field_validator("max_running")
    @classmethod
    def _leaves_room_to_read(cls, max_running: int, info: ValidationInfo) -> int:
        tokens = info.data.get("max_batch_tokens")
        if tokens is not None and max_running >= tokens:
            raise ValueError(
                f"must be below max_batch_tokens, which is {tokens}: each running request takes one token of a step"
            )
        return max_running


class RouterSpec(Section):
    """The front door, and what a request may bring."""

    grpc: Address = "127.0.0.1:50051"
    """Address to listen on; port 0 takes a free one."""
    max_running_requests: int = Field(default=256, ge=1, le=65536)
    """Requests that the router owns at once; further ones get RESOURCE_EXHAUSTED."""
    max_requests_per_worker: int = Field(default=256, ge=1, le=65536)
    """Requests that one worker is sent at once."""
    colocate_below_tokens: int = Field(default=0, ge=0)
    """Prompts with fewer tokens are read where they are answered, without a transfer."""
    max_retries: int = Field(default=3, ge=0, le=100)
    """Times that a request is begun anew, from the tokens that it has, after a worker was lost or failed."""
    replay_patience: float = Field(default=60.0, ge=0, le=3600)
    """Seconds that a request which has lost its worker waits for another one."""
    stall_seconds: float = Field(default=60.0, ge=5, le=3600)
    """Seconds without a step after which a worker with something to compute is taken for dead and started anew; it
    must be well above the longest step. After half of it the worker gets no new requests."""
    drain_seconds: float = Field(default=30.0, ge=0, le=86400)
    """Seconds that requests may go on running on a worker that is drained before they move to another one."""
    max_linger_seconds: float = Field(default=60.0, ge=0, le=3600)
    """Most that a client may ask for: seconds that its request goes on after its connection was lost."""
    max_images_per_request: int = Field(default=16, ge=0, le=1024)
    """Images of one request."""
    max_image_bytes: Annotated[int, ByteRange(1, MAX_MESSAGE_BYTES)] = 20 * MIB
    """Size of one encoded image."""
    max_image_pixels: int = Field(default=50_000_000, ge=1, le=178_956_970)
    """Width times height of one image, looked up in its header before it is decoded."""
    picture_memory: Annotated[int, ByteRange(MIB, 1024 * GIB)] = GIB
    """Size of the pictures that running requests may hold together, so that they can be encoded again; further ones
    get RESOURCE_EXHAUSTED."""


class TransferSpec(Section):
    """How KV pages and embeddings move between workers."""

    backend: Literal["auto", "shared_memory", "tcp"] = "auto"
    """`auto` takes shared memory between workers of one host, and TCP otherwise."""
    lease_seconds: float = Field(default=10.0, ge=5, le=600)
    """Life of a reservation whose router has gone silent; routers send a heartbeat every two seconds."""
    embedding_cache: Annotated[int, ByteRange(MIB, 1024 * GIB)] = 256 * MIB
    """Size of the embeddings that each encode worker keeps."""


class RaySpec(Section):
    """The Ray cluster that places the workers."""

    address: str | None = Field(default=None, min_length=1)
    """A running Ray cluster to join; without it one is started on this machine."""
    cluster_name: str | None = Field(default=None, pattern=r"^[\w.:-]{1,128}$")
    """What sets clusters of one Ray cluster apart; without it, the served name. A `triptych serve` that is started
    again under the same name takes over the workers that it finds."""
    orphan_seconds: float = Field(default=600.0, ge=10, le=86400)
    """Seconds without a router after which a worker of a joined Ray cluster ends by itself."""
