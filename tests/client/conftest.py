from collections.abc import Iterator

import pytest

from triptych.client import Client
from triptych.client.testing import FakeServer, Hold, Say


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_ADDRESS", raising=False)
    monkeypatch.delenv("TRIPTYCH_TIMEOUT", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Says "Hello" in two tokens."""
    with FakeServer(Say("Hel"), Say("lo")) as running:
        yield running


@pytest.fixture
def held_server() -> Iterator[FakeServer]:
    """Says "Hel" and then nothing more."""
    with FakeServer(Say("Hel"), Hold()) as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def held_client(held_server: FakeServer) -> Iterator[Client]:
    with Client(held_server.address) as connected:
        yield connected
