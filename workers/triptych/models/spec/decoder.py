"""The language model, as data: a list of layers, each attention and feed-forward with norms around them."""

from dataclasses import dataclass
from typing import Literal

from triptych.models.spec.rope import RopeSpec

Gate = Literal["silu", "gelu_tanh", "gelu"]
"""What is applied to the gate of a gated linear unit (arXiv:2002.05202)."""

QkNorm = Literal["none", "head", "projection"]
"""Not at all, over each head (arXiv:2302.05442), or over the whole projection (OLMo 2, arXiv:2501.00656)."""


@dataclass(frozen=True, slots=True)
class NormSpec:
    """Root-mean-square norm (arXiv:1910.07467).

    Attributes:
        eps: Added to the mean square.
        offset: Added to the weight: 1 where checkpoints keep its distance from one.
    """

    eps: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention (arXiv:2305.13245).

    Attributes:
        num_heads: Of queries.
        num_kv_heads: Of keys and values; divides `num_heads`.
        head_dim: Width of a head.
        rope: None where positions are not encoded (arXiv:2305.19466).
        bias: On the projections of queries, keys and values.
        output_bias: On the output projection.
        qk_norm: How queries and keys are normalised before they are turned.
        norm: By what, if they are.
        scale: Factor of the scores.
        window: Tokens that a query sees, itself included; 0 for all.
        softcap: Scores become softcap · tanh(score / softcap); 0 for none.
        sinks: Every head has a learnt logit that joins the softmax without a value (arXiv:2309.17453).
        images_see_themselves: Tokens of one image attend to each other in both directions.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec | None
    scale: float
    bias: bool = False
    output_bias: bool = False
    qk_norm: QkNorm = "none"
    norm: NormSpec = NormSpec(1e-6)
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    images_see_themselves: bool = False


@dataclass(frozen=True, slots=True)
class LatentAttentionSpec:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache keeps one compressed vector per token.

    Attributes:
        num_heads: Query heads.
        query_rank: Width that queries are compressed to; None where they are not.
        latent_dim: Width that keys and values are compressed to.
        plain_dim: Dimensions of a head that are not turned.
        rope: Turns the other dimensions, `rope.dimensions` of them, shared by all heads.
        value_dim: Width of a value head.
        scale: Factor of the scores.
        norm_eps: Of the norms of both compressed vectors.
        bias: On the projections down and on the output projection.
    """

    num_heads: int
    query_rank: int | None
    latent_dim: int
    plain_dim: int
    rope: RopeSpec
    value_dim: int
    scale: float
    norm_eps: float
    bias: bool = False


@dataclass(frozen=True, slots=True)
class MlpSpec:
    """Gated feed-forward block, down(act(gate(x)) · up(x)); `bias` is on all three projections."""

    intermediate_size: int
    bias: bool = False
    activation: Gate = "silu"


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """gpt-oss: gate ≤ limit, |up| ≤ limit, gate · sigmoid(alpha · gate) · (up + 1)."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class SoftmaxRouter:
    """The `top_k` likeliest experts by softmax over all; `renormalise` makes their weights sum to one.

    Renormalised, this is the softmax over the chosen logits. `bias` is on the router's projection.
    """

    renormalise: bool
    bias: bool = False


@dataclass(frozen=True, slots=True)
class SigmoidRouter:
    """DeepSeek-V3 (arXiv:2412.19437): sigmoid scores, chosen by score + correction from the best groups of experts.

    Attributes:
        num_groups: Equal groups that the experts are in.
        top_groups: Groups that experts are taken from, by the sum of the two best of each.
        renormalise: Weights sum to one before they are scaled.
        scale: Factor of the weights.
    """

    num_groups: int
    top_groups: int
    renormalise: bool
    scale: float


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """Mixture of experts (arXiv:1701.06538).

    Attributes:
        num_experts: Of which each token uses `top_k`.
        top_k: Experts of a token.
        intermediate_size: Of one expert.
        router: How they are chosen and weighed.
        activation: Of the experts' gates.
        bias: On all three projections of the experts.
        shared: A block that every token uses besides.
        shared_gate: Its output is multiplied by the sigmoid of a projection of the token.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    router: SoftmaxRouter | SigmoidRouter
    activation: Gate | ClampedGate = "silu"
    bias: bool = False
    shared: MlpSpec | None = None
    shared_gate: bool = False


@dataclass(frozen=True, slots=True)
class Norms:
    """The norms around a block; at least one of them.

    Attributes:
        before: Of what the block reads.
        after: Of what it adds to the residual stream.
    """

    before: NormSpec | None
    after: NormSpec | None = None


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        attention: The first block.
        mlp: The second.
        attention_norms: Around the first.
        mlp_norms: Around the second.
        residual_scale: Factor of what each block adds to the residual stream.
    """

    attention: AttentionSpec | LatentAttentionSpec
    mlp: MlpSpec | MoeSpec
    attention_norms: Norms
    mlp_norms: Norms
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A language model: embedding, layers, final norm and head.

    Attributes:
        vocab_size: Rows of the embedding and of the head.
        hidden_size: Width of the residual stream.
        layers: From input to output. Their caches are alike; the rest may differ.
        norm: The final one.
        tied_head: The head is the embedding.
        embedding_scale: Factor of the embeddings of tokens.
        logit_scale: Factor of the logits.
        logit_softcap: Logits become softcap · tanh(logit / softcap) after that; 0 for none.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    tied_head: bool
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0

    @property
    def whole_images(self) -> bool:
        """Whether tokens of an image depend on later ones of the same image, so that all are computed in one step."""
        attentions = (layer.attention for layer in self.layers)
        return any(isinstance(each, AttentionSpec) and each.images_see_themselves for each in attentions)
