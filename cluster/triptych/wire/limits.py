"""How large a message may be, for every gRPC channel and server of the project."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 64 * 2**20

MESSAGE_LIMITS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
"""Channel and server options that set the limit both ways."""

_MAX_COMMAND_BYTES: Final = MAX_MESSAGE_BYTES + 2**20

STAGE_MESSAGE_LIMITS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", _MAX_COMMAND_BYTES),
    ("grpc.max_receive_message_length", _MAX_COMMAND_BYTES),
)
"""The same between router and workers: whatever a client may send fits, the hash and the name of each image added."""

MAX_UNREAD_MESSAGES: Final = 16_384
"""So many messages wait for the other end of a stage stream; one that leaves more unread loses the stream."""
