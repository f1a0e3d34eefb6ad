"""The sections of a cluster's settings. The texts under the fields are the reference in docs/configuration.md."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from triptych.config.choices import Address, OrAuto
from triptych.config.section import Section
from triptych.config.sizes import ByteRange
from triptych.core.sizes import GIB, MIB
from triptych.wire.limits import MAX_MESSAGE_BYTES


class KvCacheSpec(Section):
    """The paged KV cache of each rank of a prefill or decode worker."""

    block_size: int = Field(default=16, ge=1, le=256)
    """Tokens of a block, the unit of allocation and transfer. The compiled attention takes multiples of 16; with
    other sizes, or a model whose heads are no multiple of 16, torch attends and steps are not replayed: slower."""
    memory: Annotated[int | None, ByteRange(MIB, 1024 * GIB), OrAuto()] = None
    """Size per rank; `auto` is 1GiB, or a sixteenth of the machine's memory if that is less. A rank keeps the heads
    that it computes: twice the ranks hold about twice the tokens."""
    prefix_caching: bool = True
    """Prompts that begin alike share the KV of their beginning, which stays until its blocks are needed. Answers are
    the same without it in float32 and with int8; in bfloat16 and with gguf two tokens almost as likely as each other
    may change places, as they may with the size of a batch."""

    def memory_on(self, machine_bytes: int) -> int:
        """Bytes of one rank's cache on a machine with that much memory."""
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


class ExpertBalanceSpec(Section):
    """When the experts of a mixture move among the ranks that divide them. Answers are the same wherever they are."""

    redundant_experts: int = Field(default=0, ge=0, le=4096)
    """Further copies of experts that each layer has, of those in demand; with them the ranks must have equally many.
    More of them balance better and take more memory."""
    window: int = Field(default=1024, ge=1, le=1_000_000)
    """Steps whose loads count, and the fewest between two rebalances."""
    threshold: float = Field(default=0.8, ge=0, le=1)
    """Mean load of a rank over the largest, in some layer, below which experts move; with 0 they do on demand only
    (`triptych experts balance --force`)."""


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
