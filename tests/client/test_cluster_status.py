from triptych.admin.v1 import admin_pb2
from triptych.client import Client, ClusterStatus, RouterStatus, Stage
from triptych.client.testing import FakeServer
from triptych.stage.v1 import stage_pb2


def test_status_is_typed(client: Client) -> None:
    status = client.status()
    assert (status.model, status.layout, status.ready) == ("fake", "1E1P1D", True)
    assert [(w.worker_id, w.role, w.health, w.total_blocks) for w in status.workers] == [
        ("encode-0", Stage.ENCODE, "healthy", 0),
        ("prefill-0", Stage.PREFILL, "healthy", 512),
        ("decode-0", Stage.DECODE, "healthy", 512),
    ]
    assert status.router.max_running_requests == 64


def test_what_a_newer_server_sends_is_not_an_error() -> None:
    worker = admin_pb2.WorkerStatus(worker_id="x")
    worker.health = 99  # type: ignore[assignment]
    worker.role = 99  # type: ignore[assignment]
    worker.stages.extend([99, stage_pb2.STAGE_DECODE])  # type: ignore[list-item]
    status = admin_pb2.GetClusterStatusResponse(workers=[worker])
    with FakeServer(status=status) as server, Client(server.address) as client:
        (seen,) = client.status().workers
    assert (seen.health, seen.role, seen.stages) == ("unknown", None, (Stage.DECODE,))


def test_an_empty_status_has_zero_counters() -> None:
    with FakeServer(status=admin_pb2.GetClusterStatusResponse()) as server, Client(server.address) as client:
        assert client.status() == ClusterStatus("", "", False, (), RouterStatus(*[0] * 13))
