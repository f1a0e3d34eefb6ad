import io
import json
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from triptych.admin.v1 import admin_pb2
from triptych.cli.status import poll, watch
from triptych.cli.tables import cluster_table
from triptych.client import Client, ClusterStatus, TriptychError, Unavailable
from triptych.client.testing import FakeServer, healthy_status
from triptych.stage.v1 import stage_pb2

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def busy() -> admin_pb2.GetClusterStatusResponse:
    status = healthy_status()
    encode, _, decode = status.workers
    encode.load.running_requests = 1
    encode.load.queued_images = 7
    encode.load.held_embeddings = 2
    encode.load.held_embedding_bytes = 2**20
    decode.health = admin_pb2.WORKER_HEALTH_LOST
    decode.restarts = 2
    decode.load.CopyFrom(
        stage_pb2.LoadReport(
            running_requests=3,
            queued_requests=5,
            queued_tokens=700,
            held_blocks=128,
            free_blocks=384,
            generated_tokens=4321,
            prefix_query_tokens=800,
            prefix_hit_tokens=296,
            resident_bytes=3 * 2**29,
        )
    )
    status.router.running_requests = 3
    status.router.refused_requests = 9
    status.router.replays = 2
    status.router.replayed_tokens = 77
    status.ready = False
    return status


def printed(status: ClusterStatus) -> list[str]:
    screen = io.StringIO()
    Console(width=160, file=screen).print(cluster_table(status))
    return screen.getvalue().splitlines()


def test_the_table_shows_workers_queues_and_kv(busy: admin_pb2.GetClusterStatusResponse) -> None:
    with FakeServer(status=busy) as server, Client(server.address) as client:
        heading, _, columns, encode, _, decode, _, counters, faults, reused = printed(client.status())
    assert heading.split() == ["fake", "1E1P1D", "not", "ready", "up", "1", "min", "30", "s"]
    assert columns.split() == ["worker", "role", "health", "running", "queued", "holds", "tokens", "memory"]
    assert encode.split() == [
        "encode-0",
        "encode",
        "healthy",
        "1",
        "7",
        "2",
        "images",
        "(1",
        "MiB)",
        "0",
        "600",
        "MiB",
    ]
    assert decode.split()[:9] == ["decode-0", "decode", "lost", "(2", "restarts)", "3", "5", "██░░░░", "128/512"]
    assert decode.split()[9:] == ["KV", "4321", "1.50", "GiB"]
    assert "3 of 64 requests running" in counters
    assert "9 refused" in counters
    assert "2 replays (77 tokens computed again)" in faults
    assert reused == "prefix cache: 296 of 800 prompt tokens found (37%)"


def test_off_a_terminal_one_table_is_printed(server: FakeServer, run: Run) -> None:
    for arguments in (("status",), ("status", "--once")):
        status, out, err = run(*arguments, "--address", server.address)
        assert (status, err) == (0, "")
        assert out.count("decode-0") == 1


def test_json_has_every_field(busy: admin_pb2.GetClusterStatusResponse, run: Run) -> None:
    with FakeServer(status=busy) as server:
        status, out, _ = run("status", "--json", "--address", server.address)
    assert status == 0
    tree = json.loads(out)
    assert tree["layout"] == "1E1P1D"
    assert tree["workers"][2]["role"] == "decode"
    assert tree["workers"][2]["load"]["held_blocks"] == 128
    assert tree["router"]["refused_requests"] == 9


def test_a_cluster_that_is_not_there_is_an_error(run: Run) -> None:
    with FakeServer() as server:
        address = server.address
    for option in ("--json", "--once"):
        status, out, err = run("status", option, "--address", address)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: {address} cannot be reached")


def test_polling_goes_on_when_the_cluster_goes_away(server: FakeServer) -> None:
    with Client(server.address) as client:
        snapshots = poll(client, pause=lambda: None)
        assert isinstance(next(snapshots), ClusterStatus)
        assert isinstance(next(snapshots), ClusterStatus)
        server.stop()
        assert isinstance(next(snapshots), Unavailable)
        assert isinstance(next(snapshots), Unavailable)
        with pytest.raises(Unavailable):
            next(poll(client, pause=lambda: None))


def test_watching_keeps_the_last_table_beside_an_error(server: FakeServer) -> None:
    with Client(server.address) as client:
        seen = client.status()

    def story() -> Iterator[ClusterStatus | TriptychError]:
        yield seen
        yield Unavailable("the cluster went away")
        raise KeyboardInterrupt

    screen = io.StringIO()
    watch(story(), Console(width=160, file=screen, force_terminal=True))
    last = screen.getvalue().rpartition("1E1P1D")[2]
    assert "decode-0" in last
    assert "error: the cluster went away" in last
