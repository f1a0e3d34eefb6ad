"""How large the experts of a model are, before any of them is read."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from triptych.core.errors import DataLoss
from triptych.experts.blob import PAGE
from triptych.experts.pool import LayerNeed
from triptych.experts.store import open_store
from triptych.experts.warm import read_warm, warm_path
from triptych.kernels.compact import compact_bytes
from triptych.kernels.compact_blocks import RUN
from triptych.models.cache import files_key
from triptych.models.checkpoint import open_checkpoint
from triptych.models.compact_pack import expandable, refused
from triptych.models.conversion import cache_folder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.sharding import local_spec
from triptych.models.size import parameters
from triptych.models.spec import DecoderSpec, MoeSpec
from triptych.parallel import ALONE, Parallelism


@dataclass(frozen=True, slots=True)
class WeightForm:
    """What the weights of a model are kept as.

    Attributes:
        element: Bytes of one, on average, where all are in memory.
        compactable: Whether experts may be kept in twelve bits a weight: they are bfloat16, this machine's kernels
            expand them, and nobody has found that they do not allow it.
    """

    element: float
    compactable: bool

    @classmethod
    def of(cls, files: ModelFiles, spec: DecoderSpec, form: Quantization, dtype: torch.dtype) -> "WeightForm":
        """On this machine.

        Args:
            files: The model.
            spec: What it is.
            form: Of its matrices.
            dtype: Of the computation.
        """
        plain = form == "none" and dtype == torch.bfloat16
        compactable = plain and expert_parameters(spec) > 0 and expandable() and not refused(files)
        return cls(element_bytes(form, files, spec, dtype.itemsize), compactable)


def element_bytes(form: Quantization, files: ModelFiles, spec: DecoderSpec, plain: int) -> float:
    """Bytes of one weight in memory, on average; `plain` those of an element of the computation."""
    match form:
        case "gguf":
            return files.path.stat().st_size / parameters(spec)
        case "int8":
            return 1.0
        case "none":
            return float(plain)


def expert_parameters(spec: DecoderSpec) -> int:
    """Elements of all experts; 0 without any."""
    mixtures = (layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec))
    return sum(mixture.num_experts * sum(_sections(mixture, spec.hidden_size)) for mixture in mixtures)


def layer_needs(
    spec: DecoderSpec, form: WeightForm, parallelism: Parallelism = ALONE, *, compact: bool = True
) -> tuple[LayerNeed, ...]:
    """Of each layer that has experts, what a rank asks for: of its blobs the size to within a page or two.

    Args:
        spec: The whole model.
        form: Of its weights.
        parallelism: The ranks that divide it.
        compact: Whether what is compactable is kept in twelve bits a weight, where its shapes allow it.
    """
    local = local_spec(spec, parallelism, 0)
    needs = []
    for mixture in (layer.mlp for layer in local.layers if isinstance(layer.mlp, MoeSpec)):
        experts = -(-(mixture.num_experts + parallelism.redundant) // parallelism.expert)
        plain = sum(
            -(-round(section * form.element) // PAGE) * PAGE for section in _sections(mixture, local.hidden_size)
        )
        packed = _in_twelve_bits(mixture, local.hidden_size) if compact and form.compactable else None
        nbytes = plain if packed is None else min(packed, plain)
        needs.append(LayerNeed(experts, min(mixture.top_k, experts), nbytes, (0.0,) * experts, plain))
    return tuple(needs)


def _sections(mixture: MoeSpec, hidden: int) -> tuple[int, int]:
    """Elements of gate and up, and of down."""
    inner = mixture.intermediate_size
    gated, down = 2 * inner * hidden, inner * hidden
    return (gated + 2 * inner, down + hidden) if mixture.bias else (gated, down)


def _in_twelve_bits(mixture: MoeSpec, hidden: int) -> int | None:
    """Of an expert's blob; None where no such form is for its shapes."""
    inner = mixture.intermediate_size
    if inner % RUN or hidden % RUN:
        return None
    gate, down = compact_bytes(inner, hidden), compact_bytes(hidden, inner)
    if mixture.bias:
        gate, down = gate + 2 * inner, down + 2 * hidden
    return sum(-(-section // PAGE) * PAGE for section in (2 * gate, down))


def with_earlier_uses(layers: tuple[LayerNeed, ...], files: ModelFiles) -> tuple[tuple[LayerNeed, ...], Path | None]:
    """The same with what an earlier run on this machine counted, and its packed file; nothing is made or converted.

    Args:
        layers: Of one rank that has all experts.
        files: The model.
    """
    source = open_checkpoint(files)
    shape = [(layer.experts, layer.nbytes) for layer in layers]
    for path in sorted(cache_folder(source.path).glob(f"{files_key(source.files)}-*.experts")):
        with suppress(DataLoss):
            store = open_store(path)
            if [(layer.experts, layer.layout.nbytes) for layer in store.layers] == shape:
                if warm := read_warm(warm_path(store, 0), store):
                    layers = tuple(replace(layer, uses=own) for layer, own in zip(layers, warm.uses, strict=True))
                return layers, path
    return layers, None
