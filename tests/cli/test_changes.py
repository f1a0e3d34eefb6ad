"""`triptych drain` and `triptych scale` against a fake cluster."""

from collections.abc import Callable

import pytest

from triptych.cli import changes
from triptych.cli.changes import follow, parse_replicas, pending
from triptych.client import Client, InvalidArgument, Unavailable
from triptych.client.testing import FakeServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_SECONDS_BETWEEN", 0.0)


def test_scaling_waits_until_new_workers_serve_and_old_ones_are_gone(server: FakeServer, run: Run) -> None:
    assert run("scale", "decode=3", "prefill=0", "--address", server.address) == (
        0,
        "decode-1 serves\ndecode-2 serves\nprefill-0 is gone\n",
        "",
    )
    with Client(server.address) as client:
        assert [w.worker_id for w in client.status().workers] == ["encode-0", "decode-0", "decode-1", "decode-2"]


def test_draining_waits_until_the_worker_is_gone(server: FakeServer, run: Run) -> None:
    run("scale", "decode=2", "--address", server.address)
    assert run("drain", "decode-0", "--timeout", "0.5", "--address", server.address) == (0, "decode-0 is gone\n", "")


def test_without_waiting_it_says_what_has_begun(server: FakeServer, run: Run) -> None:
    address = ("--no-wait", "--address", server.address)
    assert run("scale", "decode=3", *address)[:2] == (0, "decode-1, decode-2 are being started\n")
    assert run("scale", "decode=2", "prefill=2", *address)[:2] == (
        0,
        "prefill-1 is being started; decode-2 is being drained\n",
    )
    assert run("drain", "decode-0", *address)[:2] == (0, "decode-0 is being drained\n")
    assert run("scale", "encode=1", *address)[:2] == (0, "nothing to do\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("drain", "decode-7"), "error: there is no worker 'decode-7'; there are encode-0, prefill-0, decode-0"),
        (("drain", "decode-0"), "error: decode-0 is the last worker that can decode"),
        (("drain", "decode-0", "--timeout", "-1"), "error: timeout cannot be sent"),
        (("scale", "decode=0"), "error: decode-0 is the last worker that can decode"),
        (("scale", "decode=4000"), "error: replicas must be 0 to 1024, got 4000"),
        (("scale", "decode"), "error: a stage and its workers are written like decode=2"),
        (("scale", "paint=1"), "error: a stage and its workers are written like decode=2"),
    ],
)
def test_what_cannot_be_done_is_one_line(server: FakeServer, run: Run, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = run(*arguments, "--address", server.address)
    assert (status, out) == (1, "")
    assert err.startswith(said)
    assert "Traceback" not in err


@pytest.mark.parametrize("text", ["", "decode", "decode=", "=1", "decode=-1", "decode=1.5", "decode=²", "Decode=1"])
def test_only_stages_and_counts_are_read(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_replicas(text)


def test_what_is_still_to_be_done_is_said_in_words(server: FakeServer) -> None:
    with Client(server.address) as client:
        client.scale("decode", 2)
        client.scale("prefill", 0)
        said = pending(client.status(), ("decode-1",), ("prefill-0",))
        assert said == "decode-1 is starting, prefill-0: 0 requests still there"
        assert pending(client.status(), ("decode-1",), ("prefill-0",)) == ""


def test_a_cluster_that_goes_away_meanwhile_is_an_error(server: FakeServer) -> None:
    with Client(server.address, timeout=10.0) as client:
        client.scale("decode", 2)
        with pytest.raises(Unavailable):
            follow(client, started=("decode-1",), pause=server.stop)
