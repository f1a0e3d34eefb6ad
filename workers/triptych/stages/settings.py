"""Everything a stage worker has to be told; plain data, so that it can be sent to another process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from triptych.core.fleet import Stage
from triptych.experts.settings import OffloadSettings
from triptych.models.files import ModelFiles
from triptych.parallel import ALONE, Parallelism
from triptych.parallel.balance import DEFAULT_POLICY, BalancePolicy


@dataclass(frozen=True, slots=True)
class StageSettings:
    """One worker, all of its ranks.

    Attributes:
        worker_id: Its name in the cluster.
        role: What the router will send it.
        files: The model.
        encodes: Whether it holds the vision tower.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        adapters: Folders of low-rank adapters, by name.
        context_length: Tokens of prompt and answer; None means the model's own.
        block_size: Tokens per KV block.
        kv_cache_bytes: Memory of a rank's KV pool.
        prefix_caching: Whether prompts that begin alike share the KV of their beginning.
        embedding_cache_bytes: Memory of the embeddings that an encode worker keeps.
        max_waiting_images: Images that wait for an encode worker; more are refused.
        max_waiting_texts: Texts that wait for a worker of an embedding model; more are refused.
        max_batch_tokens: Rows of one step.
        max_running: Sequences of one step.
        threads: Threads of the computation, of a rank.
        parallelism: How its ranks divide the language model.
        balance: When experts move among its ranks.
        offload: How each rank keeps the experts of a mixture; None keeps all in memory.
        transfer_backend: auto, shared_memory or tcp.
        lease_seconds: How long a reservation lives without a heartbeat of its router.
        orphan_seconds: How long it lives without a router; None means for ever.
        host: Address to listen on and to be reached at.
    """

    worker_id: str
    role: Stage
    files: ModelFiles
    encodes: bool = False
    dtype: str = "auto"
    quantization: str = "none"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    context_length: int | None = None
    block_size: int = 16
    kv_cache_bytes: int = 512 << 20
    prefix_caching: bool = True
    embedding_cache_bytes: int = 256 << 20
    max_waiting_images: int = 1024
    max_waiting_texts: int = 8192
    max_batch_tokens: int = 512
    max_running: int = 64
    threads: int = 1
    parallelism: Parallelism = ALONE
    balance: BalancePolicy = DEFAULT_POLICY
    offload: OffloadSettings | None = None
    transfer_backend: str = "auto"
    lease_seconds: float = 30.0
    orphan_seconds: float | None = None
    host: str = "127.0.0.1"

    @property
    def decodes(self) -> bool:
        """Whether it holds the language model; an encode worker never opens it."""
        return self.role is not Stage.ENCODE
