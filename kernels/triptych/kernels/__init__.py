"""Kernels: every op writes into tensors given by its caller.

The torch reference of each op defines what it computes and runs on any device; other backends register behind the
same signature (`dispatch`). Shapes: T rows of a step, H hidden size, Hq query heads, Hkv key/value heads, D head
size, N pages of B tokens.
"""

from triptych.kernels.activation import gelu, gelu_mul, gelu_tanh, gelu_tanh_mul, quick_gelu, silu_mul
from triptych.kernels.attention import paged_attention
from triptych.kernels.batch import AttentionBatch
from triptych.kernels.dispatch import Op
from triptych.kernels.embedding import embedding
from triptych.kernels.expert_slots import Arrivals, SlotProjection
from triptych.kernels.experts import ClampedSilu, ExpertProjection, Experts, Gating, Projection, moe
from triptych.kernels.kv_cache import store_kv
from triptych.kernels.latent import absorb_query, expand_value, latent_attention, store_latent
from triptych.kernels.linear import gated_linear, linear, linear_argmax, linears
from triptych.kernels.low_rank import LowRank, LowRankPair, low_rank
from triptych.kernels.norm import add_rms_norm, add_rms_norm_rows, layer_norm, rms_norm
from triptych.kernels.rope import rope
from triptych.kernels.rope_store import rope_store
from triptych.kernels.routing import Routing, route
from triptych.kernels.rows import dequantize_rows, gather_rows, quantize_rows, sum_rows
from triptych.kernels.sampling import draw_token
from triptych.kernels.scaling import add_gated, add_to, scale, softcap
from triptych.kernels.segment_attention import segment_attention
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight, dequantize

__all__ = [
    "Arrivals",
    "AttentionBatch",
    "ClampedSilu",
    "DenseWeight",
    "ExpertProjection",
    "Experts",
    "Gating",
    "GgufWeight",
    "Int8Weight",
    "LowRank",
    "LowRankPair",
    "Op",
    "Projection",
    "Routing",
    "SlotProjection",
    "Weight",
    "absorb_query",
    "add_gated",
    "add_rms_norm",
    "add_rms_norm_rows",
    "add_to",
    "dequantize",
    "dequantize_rows",
    "draw_token",
    "embedding",
    "expand_value",
    "gated_linear",
    "gather_rows",
    "gelu",
    "gelu_mul",
    "gelu_tanh",
    "gelu_tanh_mul",
    "latent_attention",
    "layer_norm",
    "linear",
    "linear_argmax",
    "linears",
    "low_rank",
    "moe",
    "paged_attention",
    "quantize_rows",
    "quick_gelu",
    "rms_norm",
    "rope",
    "rope_store",
    "route",
    "scale",
    "segment_attention",
    "silu_mul",
    "softcap",
    "store_kv",
    "store_latent",
    "sum_rows",
]
