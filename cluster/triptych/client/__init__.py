"""The SDK: `Client` and `AsyncClient`, frozen results, and one hierarchy of errors.

::

    from triptych.client import Client

    with Client("127.0.0.1:50051") as client, client.stream("Once upon a time", max_tokens=64) as stream:
        for chunk in stream:
            print(chunk.text, end="", flush=True)
        print(stream.result().usage)
"""

from triptych.client.asynchronous import AsyncClient
from triptych.client.cluster import ClusterStatus, RouterStatus, WorkerLoad, WorkerStatus
from triptych.client.embeddings import Embeddings, EmbedOptions
from triptych.client.expert_balance import ExpertBalance, LayerBalance
from triptych.client.expert_offload import ExpertOffload
from triptych.client.messages import MessageLike
from triptych.client.operations import Scaling
from triptych.client.prompts import ImageSource, PromptLike, load_image, load_video, user_message
from triptych.client.requests import GenerateOptions, TemplateOptions
from triptych.client.results import Choice, Generation, ModelInfo, TextChunk
from triptych.client.stream import AsyncTextStream, TextStream
from triptych.client.sync import Client
from triptych.client.traces import WorkerTrace
from triptych.core.chat import ToolCall
from triptych.core.errors import (
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PromptTooLong,
    ResourceExhausted,
    TriptychError,
    Unavailable,
    Unimplemented,
)
from triptych.core.fleet import Stage
from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage, ImagePart, TextPart, VideoPart
from triptych.core.sampling import SamplingParams
from triptych.core.usage import Span, Usage

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncTextStream",
    "Cancelled",
    "ChatMessage",
    "Choice",
    "Client",
    "ClusterStatus",
    "DataLoss",
    "DeadlineExceeded",
    "EmbedOptions",
    "Embeddings",
    "ExpertBalance",
    "ExpertOffload",
    "FailedPrecondition",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "ImagePart",
    "ImageSource",
    "Internal",
    "InvalidArgument",
    "LayerBalance",
    "MessageLike",
    "ModelInfo",
    "NotFound",
    "Placement",
    "PositionLogprobs",
    "PromptLike",
    "PromptTooLong",
    "ResourceExhausted",
    "RouterStatus",
    "SamplingParams",
    "Scaling",
    "Span",
    "Stage",
    "TemplateOptions",
    "TextChunk",
    "TextPart",
    "TextStream",
    "TokenLogprob",
    "ToolCall",
    "TriptychError",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "VideoPart",
    "WorkerLoad",
    "WorkerStatus",
    "WorkerTrace",
    "load_image",
    "load_video",
    "user_message",
]
