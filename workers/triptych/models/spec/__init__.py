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
from triptych.models.spec.text_encoder import DenseActivation, DenseSpec, EmbedderSpec, Pooling, TextEncoderSpec
from triptych.models.spec.tower import (
    Activation,
    BlocksSpec,
    ClipTower,
    PatchGrid,
    ProjectorSpec,
    SiglipTower,
    VideoTokens,
)
from triptych.models.spec.vision import (
    Gemma3Vision,
    Idefics3Vision,
    LlavaNextVision,
    LlavaVision,
    Qwen3Vision,
    Qwen25Vision,
    VisionSpec,
    embedding_levels,
)

__all__ = [
    "Activation",
    "AttentionSpec",
    "BlocksSpec",
    "ClampedGate",
    "ClipTower",
    "DecoderSpec",
    "DenseActivation",
    "DenseSpec",
    "EmbedderSpec",
    "Gate",
    "Gemma3Vision",
    "Idefics3Vision",
    "LatentAttentionSpec",
    "LayerSpec",
    "LinearScaling",
    "Llama3Scaling",
    "LlavaNextVision",
    "LlavaVision",
    "LongScaling",
    "MlpSpec",
    "ModelSpec",
    "MoeSpec",
    "NormSpec",
    "Norms",
    "PatchGrid",
    "Pooling",
    "ProjectorSpec",
    "QkNorm",
    "Qwen3Vision",
    "Qwen25Vision",
    "RopeScaling",
    "RopeSections",
    "RopeSpec",
    "SiglipTower",
    "SigmoidRouter",
    "SoftmaxRouter",
    "TextEncoderSpec",
    "VideoTokens",
    "VisionSpec",
    "YarnScaling",
    "embedding_levels",
    "read_spec",
]
