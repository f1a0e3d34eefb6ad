"""One decoder layer: two blocks, each with the norms around it."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import add_to, scale
from triptych.models.attention import load_attention
from triptych.models.experts import load_experts
from triptych.models.feed_forward import load_feed_forward
from triptych.models.latent import load_latent_attention
from triptych.models.mixer import Mixer
from triptych.models.norms import RmsNorm, load_norm
from triptych.models.offloaded import OffloadedLayer
from triptych.models.parameters import Parameters
from triptych.models.rotary import RotaryTable
from triptych.models.sharding.reduced import reduced
from triptych.models.spec import AttentionSpec, LatentAttentionSpec, LayerSpec, MlpSpec, MoeSpec, Norms
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class Block:
    """A mixer between the residual stream and itself.

    Attributes:
        before: Norm of what the mixer reads.
        mixer: Computes.
        after: Norm of what it leaves.
        residual_scale: Factor of what it leaves.
    """

    before: RmsNorm | None
    mixer: Mixer
    after: RmsNorm | None
    residual_scale: float

    def first(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """Runs as the first block of all: `acts.delta` holds nothing yet."""
        if self.before is not None:
            self.before(acts.residual, acts.normed)
        else:
            scale(acts.residual, 1.0, acts.normed)  # a copy that is recorded
        self._run(step, acts, kv)

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """Adds what the last block left to the residual stream, and leaves its own in `acts.delta`."""
        if self.before is not None:
            self.before.of_sum(acts.delta, acts.residual, acts.normed)
        else:
            add_to(acts.delta, acts.residual, acts.normed)
        self._run(step, acts, kv)

    def _run(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        self.mixer(step, acts, kv)
        if self.after is not None:
            self.after(acts.delta, acts.delta)
        if self.residual_scale != 1:
            scale(acts.delta, self.residual_scale, acts.delta)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention, then feed-forward."""

    attention: Block
    mlp: Block


def load_layer(
    prefix: str,
    spec: LayerSpec,
    parameters: Parameters,
    rotary: RotaryTable,
    offloaded: OffloadedLayer | None = None,
) -> DecoderLayer:
    """Reads this rank's part of the layer whose tensors begin with `prefix`; `spec` is that part's.

    Where `offloaded` keeps its experts, none of them is read.
    """
    attention = _load_attention(f"{prefix}.attention", spec.attention, parameters, rotary)
    mlp = _load_feed_forward(f"{prefix}.mlp", spec.mlp, parameters, offloaded)
    return DecoderLayer(
        _around(f"{prefix}.attention", attention, spec.attention_norms, spec.residual_scale, parameters),
        _around(f"{prefix}.mlp", mlp, spec.mlp_norms, spec.residual_scale, parameters),
    )


def _around(prefix: str, mixer: Mixer, norms: Norms, residual_scale: float, parameters: Parameters) -> Block:
    return Block(
        before=load_norm(f"{prefix}_norm", norms.before, parameters) if norms.before else None,
        mixer=mixer,
        after=load_norm(f"{prefix}_output_norm", norms.after, parameters) if norms.after else None,
        residual_scale=residual_scale,
    )


def _load_attention(
    prefix: str, spec: AttentionSpec | LatentAttentionSpec, parameters: Parameters, rotary: RotaryTable
) -> Mixer:
    group = parameters.mesh.attention
    match spec:
        case AttentionSpec():
            return reduced(load_attention(prefix, spec, parameters, rotary), group)
        case LatentAttentionSpec():
            return reduced(load_latent_attention(prefix, spec, parameters, rotary), group)


def _load_feed_forward(
    prefix: str, spec: MlpSpec | MoeSpec, parameters: Parameters, offloaded: OffloadedLayer | None
) -> Mixer:
    mesh = parameters.mesh
    match spec:
        case MlpSpec():
            return reduced(load_feed_forward(prefix, spec, parameters), mesh.attention)
        case MoeSpec():
            mixture = load_experts(prefix, spec, parameters, offloaded)
            # Where experts are divided, the way back to the rows' owners ends in whole sums.
            return reduced(mixture, mesh.attention) if mesh.expert.size == 1 else mixture
