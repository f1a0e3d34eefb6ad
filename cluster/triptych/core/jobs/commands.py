"""What a router asks of a decoder worker. Token ids, embeddings and addresses stay with the adapter."""

from dataclasses import dataclass

from triptych.core.generation import OperationKey

SessionId = int
"""One stream of one router; the adapter numbers them."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute the KV of a prompt, and what follows.

    Attributes:
        received: Monotonic seconds.
        length: Tokens to compute: the prompt, and the answer as far as earlier attempts came.
        answered: How many of them are the answer; the place of the first token that is sampled.
        embeddings: Embeddings to pull first.
        ticket_id: Where the KV goes; empty when the worker decodes by itself.
        deadline: Monotonic seconds after which nobody wants the answer.
    """

    session: SessionId
    key: OperationKey
    received: float
    length: int
    answered: int = 0
    embeddings: int = 0
    ticket_id: str = ""
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Reserve:
    """Keep blocks for KV that a prefill worker will send, then decode.

    Attributes:
        ticket_id: The name of the lease, once there are blocks; drawn by the adapter.
        Others: As in `Prefill`.
    """

    session: SessionId
    key: OperationKey
    received: float
    length: int
    ticket_id: str
    answered: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Decode:
    """Go on after these tokens, all that the answer has, as soon as the KV is here."""

    session: SessionId
    key: OperationKey
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Free:
    """Give back whatever the operation holds."""

    session: SessionId
    key: OperationKey


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new operation; those that are known go on."""


Command = Prefill | Reserve | Decode | Free | Drain
