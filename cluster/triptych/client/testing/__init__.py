"""A cluster for tests: real gRPC on a free local port, answers from a script, no model.

::

    with FakeServer(Say("Hel"), Say("lo"), Hold()) as server, Client(server.address) as client:
        with client.stream("Hi") as stream:
            next(stream)
        assert server.wait_until_abandoned()
"""

from triptych.client.testing.script import MODEL, TIMELINE, TOKENS_PER_IMAGE, Fail, Hold, Say, Step, healthy_status
from triptych.client.testing.server import FakeServer

__all__ = ["MODEL", "TIMELINE", "TOKENS_PER_IMAGE", "Fail", "FakeServer", "Hold", "Say", "Step", "healthy_status"]
