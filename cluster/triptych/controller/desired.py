"""What should run: the workers of a spec, decided without touching anything."""

from dataclasses import dataclass

from triptych.config.resources import StageResources
from triptych.config.spec import ClusterSpec
from triptych.config.stages import Ranks
from triptych.controller.copies import copied_besides_experts, copied_parameters
from triptych.controller.expert_memory import Offloads, pool_bytes
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet import Stage
from triptych.experts.settings import OffloadSettings
from triptych.models.embedding.layout import parameters as embedder_parameters
from triptych.models.expert_sizes import WeightForm, element_bytes, expert_parameters
from triptych.models.files import ModelFiles
from triptych.models.size import parameters
from triptych.models.spec import EmbedderSpec, ModelSpec
from triptych.parallel import ALONE, Parallelism
from triptych.parallel.balance import BalancePolicy
from triptych.stages.settings import StageSettings

PROCESS_BYTES = 450 << 20  # a Python process with torch and gRPC, measured


@dataclass(frozen=True, slots=True)
class DesiredWorker:
    """One worker and what it takes.

    Attributes:
        settings: What it runs.
        cpus: Processors that Ray sets aside for each of its ranks.
        gpus: GPUs, likewise.
        copies: Bytes of weights that its ranks have for themselves, beside those that all processes of a machine map.
        pools: Bytes that its ranks keep experts in, where not all of them are in memory.
    """

    settings: StageSettings
    cpus: float
    gpus: float
    copies: int = 0
    pools: int = 0

    @property
    def ranks(self) -> int:
        """Its processes."""
        return self.settings.parallelism.size


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What the workers of a cluster are like, those included that are added while it serves.

    Attributes:
        spec: The settings.
        files: The model.
        model: What it is.
        stages: What a worker of each stage may use, and how many there are at first.
        machine_bytes: Memory of the machine.
        offloads: How the ranks of each stage keep experts.
        form: Of the weights; None for an embedder.
    """

    spec: ClusterSpec
    files: ModelFiles
    model: ModelSpec | EmbedderSpec
    stages: dict[Stage, StageResources]
    machine_bytes: int
    offloads: Offloads
    form: WeightForm | None

    @property
    def sees_by_itself(self) -> bool:
        """Whether decode workers hold the vision tower too: when there is no encode worker at first."""
        return _sees(self.model) and not self.stages[Stage.ENCODE].replicas

    def roles(self) -> dict[str, Stage]:
        """The workers at first, by stage and number."""
        return {f"{stage}-{n}": stage for stage, resources in self.stages.items() for n in range(resources.replicas)}

    def abilities(self) -> dict[Stage, frozenset[Stage]]:
        """What a worker of each stage can do for the others; those of which the model has no use are left out."""
        encode = {Stage.ENCODE: frozenset({Stage.ENCODE})}
        if isinstance(self.model, EmbedderSpec):
            return encode
        decode = {Stage.PREFILL, Stage.DECODE} | ({Stage.ENCODE} if self.sees_by_itself else set())
        able = {Stage.PREFILL: frozenset({Stage.PREFILL}), Stage.DECODE: frozenset(decode)}
        return encode | able if self.model.vision else able

    def workers(self) -> tuple[DesiredWorker, ...]:
        """Every worker of the cluster at first."""
        return tuple(self.worker(worker_id, stage) for worker_id, stage in self.roles().items())

    def worker(self, worker_id: str, stage: Stage) -> DesiredWorker:
        """One worker."""
        spec, resources = self.spec, self.stages[stage]
        parallelism = parallelism_of(resources.ranks, spec)
        return DesiredWorker(
            StageSettings(
                worker_id=worker_id,
                role=stage,
                files=self.files,
                encodes=stage is Stage.ENCODE or (stage is Stage.DECODE and self.sees_by_itself),
                dtype=spec.dtype,
                quantization=spec.quantization,
                adapters=spec.adapter_folders,
                context_length=spec.context_length,
                block_size=spec.kv_cache.block_size,
                kv_cache_bytes=spec.kv_cache.memory_on(self.machine_bytes),
                prefix_caching=spec.kv_cache.prefix_caching,
                embedding_cache_bytes=spec.transfer.embedding_cache,
                max_batch_tokens=spec.scheduler.max_batch_tokens,
                # A running request takes a token of every step, and one has to be left to read prompts with.
                max_running=min(spec.scheduler.max_running, spec.scheduler.max_batch_tokens - 1),
                threads=resources.threads,
                parallelism=parallelism,
                balance=BalancePolicy(window=spec.expert_balance.window, threshold=spec.expert_balance.threshold),
                offload=self.offloads[stage],
                transfer_backend=spec.transfer.backend,
                lease_seconds=spec.transfer.lease_seconds,
                orphan_seconds=spec.ray.orphan_seconds if spec.ray.address else None,
            ),
            resources.cpus,
            resources.gpus,
            self._copies(parallelism, self.offloads[stage]),
            self._pools(resources.ranks, self.offloads[stage]),
        )

    def _copies(self, parallelism: Parallelism, offload: OffloadSettings | None) -> int:
        if parallelism == ALONE or isinstance(self.model, EmbedderSpec) or self.form is None:
            return 0
        count = copied_parameters if offload is None else copied_besides_experts
        return round(self.form.element * count(self.model.decoder, parallelism))

    def _pools(self, ranks: Ranks, offload: OffloadSettings | None) -> int:
        if offload is None or isinstance(self.model, EmbedderSpec) or self.form is None:
            return 0
        return ranks.size * pool_bytes(offload, self.model.decoder, self.form, ranks)


def parallelism_of(ranks: Ranks, spec: ClusterSpec) -> Parallelism:
    """The same for those who compute; one rank has every expert once, and sends it nothing."""
    if ranks.expert == 1:
        return Parallelism(ranks.tensor, 1, ranks.attention)
    redundant = spec.expert_balance.redundant_experts
    return Parallelism(ranks.tensor, ranks.expert, ranks.attention, spec.expert_payload, redundant)


def require_memory(workers: tuple[DesiredWorker, ...], weights: int, available: int, advice: str = "") -> None:
    """Refuses a cluster that cannot fit this machine; all ranks of all workers share one mapping of the weights.

    Args:
        workers: Those that are to be started.
        weights: Bytes of the language model, as `weight_bytes` has them; 0 where others have it in memory already.
        available: Bytes that are free.
        advice: What else would help.

    Raises:
        FailedPrecondition: says what is needed, what is there and what to turn down.
    """
    caches = sum(w.settings.kv_cache_bytes * w.ranks for w in workers if w.settings.decodes)
    weights += sum(w.copies + w.pools for w in workers)
    processes = sum(w.ranks for w in workers)
    needed = caches + weights + processes * PROCESS_BYTES
    if needed > available:
        ranks = f" of {processes} ranks" if processes > len(workers) else ""
        raise FailedPrecondition(
            f"{len(workers)} workers{ranks} need about {needed >> 20} MiB ({caches >> 20} MiB of it KV cache, "
            f"{weights >> 20} MiB weights); {available >> 20} MiB are available. "
            f"Lower kv_cache.memory or use fewer {'ranks' if ranks else 'workers'}{advice}",
            field="kv_cache.memory",
        )


def plain_form(spec: ClusterSpec, files: ModelFiles, model: ModelSpec | EmbedderSpec) -> WeightForm | None:
    """Of weights that are all in memory; reads nothing of a file. None for an embedder."""
    if isinstance(model, EmbedderSpec):
        return None
    plain = 4 if spec.dtype == "float32" else 2
    return WeightForm(element_bytes(spec.quantization, files, model.decoder, plain), compactable=False)


def weight_bytes(spec: ClusterSpec, model: ModelSpec | EmbedderSpec, form: WeightForm | None) -> int:
    """About what the weights of the language model and of its adapters, or of the text encoder, take in memory.

    All experts are counted, whether or not somebody maps them.
    """
    if isinstance(model, EmbedderSpec):
        return embedder_parameters(model) * (2 if spec.dtype == "bfloat16" else 4)
    assert form is not None
    adapters = (folder.glob("*.safetensors") for folder in spec.adapter_folders.values())
    own = round(parameters(model.decoder) * form.element)
    return own + sum(file.stat().st_size for found in adapters for file in found)


def unmapped_bytes(blueprint: Blueprint) -> int:
    """Of experts that no worker maps, as each of them keeps its own in a pool."""
    model, stages = blueprint.model, (Stage.PREFILL, Stage.DECODE)
    serving = [stage for stage in stages if blueprint.stages[stage].replicas]
    if isinstance(model, EmbedderSpec) or any(blueprint.offloads[stage] is None for stage in serving):
        return 0
    assert blueprint.form is not None
    return round(expert_parameters(model.decoder) * blueprint.form.element)


def _sees(model: ModelSpec | EmbedderSpec) -> bool:
    return isinstance(model, ModelSpec) and model.vision is not None
