"""How large a message may be, for every gRPC channel and server of the project."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 64 * 2**20

MESSAGE_LIMITS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
"""Channel and server options that set the limit both ways."""
