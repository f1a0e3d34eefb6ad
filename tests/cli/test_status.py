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


def test_a_worker_that_reads_experts_says_how_many_and_what_it_waits(
    busy: admin_pb2.GetClusterStatusResponse, run: Run
) -> None:
    offload = busy.workers[2].load.offload
    offload.CopyFrom(
        stage_pb2.ExpertOffload(
            pool_bytes=3 << 29, steps=100, demanded=36_000, hits=28_000, covered=3_000, misses=5_000, reads=5_500,
            read_bytes=880 << 20, stall_us=120_000, prefetch="next-gate",
        )
    )  # fmt: skip

    def line() -> str:
        with FakeServer(status=busy) as server, Client(server.address) as client:
            return printed(client.status())[-1]

    assert line() == (
        "decode-0: 1.50 GiB of experts, 86.1% of those asked for there; "
        "a step reads 55.0 (8.8 MiB) and waits 1.2 ms; next-gate on"
    )
    offload.switched_off, offload.failed_reads = True, 2
    assert line().endswith("; next-gate off: it did not pay, 2 READS FAILED")
    offload.prefetch = "none"
    assert line().endswith("; nothing read in advance, 2 READS FAILED")
    with FakeServer(status=busy) as server:
        _, out, _ = run("status", "--json", "--address", server.address)
    workers = json.loads(out)["workers"]
    assert workers[0]["offload"] is None
    assert (workers[2]["offload"]["misses"], workers[2]["offload"]["switched_off"]) == (5_000, True)


def test_metrics_are_in_the_format_of_prometheus(busy: admin_pb2.GetClusterStatusResponse, run: Run) -> None:
    with FakeServer(status=busy) as server:
        _, out, _ = run("status", "--metrics", "--address", server.address)
    assert "triptych_experts" not in out
    busy.workers[2].load.offload.CopyFrom(
        stage_pb2.ExpertOffload(pool_bytes=1 << 30, hits=7, stall_us=2_500_000, failed_reads=1, switched_off=True)
    )
    with FakeServer(status=busy) as server:
        status, out, err = run("status", "--metrics", "--address", server.address)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples['triptych_worker_up{worker="encode-0"}'] == "1"
    assert samples['triptych_worker_up{worker="decode-0"}'] == "0"
    assert samples["triptych_router_refused_requests_total"] == "9"
    assert samples['triptych_experts_pool_bytes{worker="decode-0"}'] == str(1 << 30)
    assert samples['triptych_experts_hits_total{worker="decode-0"}'] == "7"
    assert samples['triptych_experts_stall_seconds_total{worker="decode-0"}'] == "2.5"
    assert samples['triptych_experts_failed_reads_total{worker="decode-0"}'] == "1"
    assert samples['triptych_experts_prefetch_off{worker="decode-0"}'] == "1"
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert {name.partition("{")[0] for name in samples} <= set(families)
    kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE")]
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds)


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


def test_the_ranks_of_a_worker_and_why_it_was_started_again_are_shown(
    busy: admin_pb2.GetClusterStatusResponse,
) -> None:
    decode = busy.workers[2]
    decode.rank_pids.extend((11, 12))
    decode.last_end = "rank 1 has been silent for 10 s"
    with FakeServer(status=busy) as server, Client(server.address) as client:
        status = client.status()
    lines = printed(status)
    assert any(line.split()[:3] == [decode.worker_id, "×2", "decode"] for line in lines)
    assert f"{decode.worker_id} was started again: rank 1 has been silent for 10 s" in lines
    assert status.workers[2].rank_pids == (11, 12)
