"""A cluster for tests: real gRPC on a free local port, answers from a script, no model.

::

    with FakeServer(Say("Hel"), Say("lo"), Hold()) as server, Client(server.address) as client:
        with client.stream("Hi") as stream:
            next(stream)
        assert server.wait_until_abandoned()

    with FakeServer(Say("Hel"), Break(), Say("lo")) as server, Client(server.address) as client:
        assert client.generate("Hi").text == "Hello"
"""

from triptych.client.testing.script import (
    MODEL,
    TIMELINE,
    TOKENS_PER_IMAGE,
    Break,
    Fail,
    Hold,
    Restart,
    Say,
    Step,
    healthy_status,
)
from triptych.client.testing.server import FakeServer

__all__ = [
    "MODEL",
    "TIMELINE",
    "TOKENS_PER_IMAGE",
    "Break",
    "Fail",
    "FakeServer",
    "Hold",
    "Restart",
    "Say",
    "Step",
    "healthy_status",
]
