"""What a model is made of, as data: no tensors, no torch.

A recipe (`triptych.models.recipes`) fills these types from a Hugging Face config; `decoder` and `vision` build the
model that they describe.
"""

from triptych.models.spec.decoder import (
    AttentionSpec,
    ClampedGate,
    DecoderSpec,
    Gate,
    LatentAttentionSpec,
    LayerSpec,
    MlpSpec,
    MoeSpec,
    Norms,
    NormSpec,
    QkNorm,
    SigmoidRouter,
    SoftmaxRouter,
)
from triptych.models.spec.model import ModelSpec, read_spec
from triptych.models.spec.rope import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeScaling,
    RopeSections,
    RopeSpec,
    YarnScaling,
)
from triptych.models.spec.vision import Activation, ProjectorSpec, VisionSpec

__all__ = [
    "Activation",
    "AttentionSpec",
    "ClampedGate",
    "DecoderSpec",
    "Gate",
    "LatentAttentionSpec",
    "LayerSpec",
    "LinearScaling",
    "Llama3Scaling",
    "LongScaling",
    "MlpSpec",
    "ModelSpec",
    "MoeSpec",
    "NormSpec",
    "Norms",
    "ProjectorSpec",
    "QkNorm",
    "RopeScaling",
    "RopeSections",
    "RopeSpec",
    "SigmoidRouter",
    "SoftmaxRouter",
    "VisionSpec",
    "YarnScaling",
    "read_spec",
]
