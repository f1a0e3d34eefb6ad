"""The router of a cluster, made from its settings and from what its model is."""

from triptych.config.layout import Serves
from triptych.config.spec import ClusterSpec
from triptych.core.errors import FailedPrecondition
from triptych.core.fleet.observe import HealthLimits
from triptych.core.plan import RoutingPolicy
from triptych.models.embedding.text import EmbeddingText
from triptych.models.files import ModelFiles
from triptych.models.generation_config import NEUTRAL, read_sampling_defaults
from triptych.models.spec import EmbedderSpec, ModelSpec
from triptych.models.text import TextProcessor
from triptych.router.intake import InputLimits, Intake
from triptych.router.limits import RouterLimits
from triptych.router.server import Router
from triptych.router.text_intake import TextIntake
from triptych.wire.liveness import SILENCE_SECONDS


def kind_of(spec: ClusterSpec, model: ModelSpec | EmbedderSpec) -> Serves:
    """What a model does.

    Raises:
        FailedPrecondition: the settings want of a model that gives embeddings what only one that generates can do.
    """
    if isinstance(model, ModelSpec):
        return "texts" if model.vision is None else "images"
    if spec.quantization != "none":
        raise FailedPrecondition(
            f"quantization {spec.quantization} is for models that generate; {spec.name} gives embeddings: use none",
            field="quantization",
        )
    if spec.adapters:
        raise FailedPrecondition(
            f"adapters are for models that generate, and {spec.name} gives embeddings", field="adapters"
        )
    if spec.tensor_parallel * spec.expert_parallel > 1:
        raise FailedPrecondition(
            f"tensor_parallel and expert_parallel are for models that generate, and {spec.name} gives embeddings: "
            "its workers are one rank each; more encode workers embed more",
            field="tensor_parallel" if spec.tensor_parallel > 1 else "expert_parallel",
        )
    return "vectors"


def router_of(spec: ClusterSpec, files: ModelFiles, model: ModelSpec | EmbedderSpec, address: str) -> Router:
    """A router that listens on an address."""
    limits = RouterLimits(
        routing=RoutingPolicy(spec.router.colocate_below_tokens, spec.router.max_requests_per_worker),
        health=HealthLimits(dead=SILENCE_SECONDS, stalled=spec.router.stall_seconds),
        max_running=spec.router.max_running_requests,
        max_retries=spec.router.max_retries,
        replay_patience=spec.router.replay_patience,
        picture_bytes=spec.router.picture_memory,
    )
    if isinstance(model, EmbedderSpec):
        return Router(address, TextIntake(spec.name, model, EmbeddingText.load(files, model)), limits)
    return Router(address, _intake(spec, files, model), limits)


def _intake(spec: ClusterSpec, files: ModelFiles, model: ModelSpec) -> Intake:
    inputs = InputLimits(
        context_length=min(spec.context_length or model.context_length, model.context_length),
        max_images=spec.router.max_images_per_request,
        max_image_pixels=spec.router.max_image_pixels,
        max_image_bytes=spec.router.max_image_bytes,
        max_linger=spec.router.max_linger_seconds,
    )
    defaults = read_sampling_defaults(files) if spec.generation_config == "model" else NEUTRAL
    return Intake(spec.name, model, TextProcessor.load(files, model), inputs, defaults, tuple(spec.adapters))
