import pytest

from triptych.client import AsyncClient, Client, DeadlineExceeded, InvalidArgument
from triptych.client.requests import GenerateOptions, SamplingOptions, TemplateOptions
from triptych.client.settings import DEFAULT_ADDRESS, Settings
from triptych.client.testing import FakeServer
from triptych.core.sampling import SamplingParams


def test_the_environment_is_read_once(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_ADDRESS", server.address)
    with Client() as client:
        monkeypatch.setenv("TRIPTYCH_ADDRESS", "127.0.0.1:1")
        assert client.generate("Hi").text == "Hello"
        assert client.address == server.address


def test_the_environment_sets_the_timeout(held_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_TIMEOUT", "0.05")
    with Client(held_server.address) as client, pytest.raises(DeadlineExceeded):
        client.generate("Hi")


def test_defaults_and_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.read(None, None) == Settings(DEFAULT_ADDRESS, None)
    monkeypatch.setenv("TRIPTYCH_ADDRESS", "10.0.0.1:5")
    monkeypatch.setenv("TRIPTYCH_TIMEOUT", "7.5")
    assert Settings.read(None, None) == Settings("10.0.0.1:5", 7.5)
    assert Settings.read("[::1]:6", 2) == Settings("[::1]:6", 2.0)
    assert Settings.read(None, None).deadline(None) == 7.5
    assert Settings.read(None, None).deadline(1) == 1.0
    monkeypatch.setenv("TRIPTYCH_ADDRESS", "")
    assert Settings.read(None, None).address == DEFAULT_ADDRESS


@pytest.mark.parametrize("address", ["localhost", "localhost:", "127.0.0.1:http", "://"])
def test_an_address_needs_a_port(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match="HOST:PORT") as caught:
            kind(address)
        assert caught.value.field == "address"


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "soon"])
def test_a_timeout_is_positive(timeout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_TIMEOUT", timeout)
    with pytest.raises(InvalidArgument) as caught:
        Client()
    assert caught.value.field == "TRIPTYCH_TIMEOUT"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_of_one_call_is_positive(client: Client, timeout: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.generate("Hi", timeout=timeout)
    assert caught.value.field == "timeout"


def test_every_sampling_parameter_is_a_keyword() -> None:
    fields = set(SamplingParams.__dataclass_fields__)
    assert set(SamplingOptions.__annotations__) == fields
    assert set(GenerateOptions.__annotations__) == fields | set(TemplateOptions.__annotations__) | {
        "sampling",
        "model",
        "adapter",
        "request_id",
        "placement",
        "timeout",
        "reconnect",
        "linger",
    }
