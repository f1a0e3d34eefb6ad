"""From a command to a sequence, with every number checked: a worker computes nothing that could harm its neighbours."""

from typing import Protocol

from triptych.core.errors import InvalidArgument
from triptych.engine.core import EngineCore
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.inference.v1 import sampling_pb2
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.jobs import key_of
from triptych.wire.sampling import sampling_from_proto


class PromptMessage(Protocol):
    """What Prefill and Reserve have in common."""

    @property
    def key(self) -> pb.OperationKey:
        """The operation."""

    @property
    def prompt_token_ids(self) -> "pb._RepeatedInt32":
        """The prompt."""

    @property
    def media(self) -> "pb._RepeatedMediaSpan":
        """Where images stand in it."""

    @property
    def sampling(self) -> sampling_pb2.SamplingParams:
        """How to go on."""

    @property
    def timeout_ms(self) -> int:
        """Milliseconds until the deadline; 0 means none."""


