"""`triptych drain` and `triptych scale`: which workers there are, changed while the cluster serves."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from triptych.core.errors import InvalidArgument

if TYPE_CHECKING:
    from triptych.client import Client, ClusterStatus

_SECONDS_BETWEEN: Final = 0.5

Address = Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done, or at once.")]


def drain(
    worker: Annotated[str, typer.Argument(help="Such as decode-1; `triptych status` lists them.")],
    *,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that requests may go on there before they move; by default router.drain_seconds."),
    ] = None,
    wait: Wait = True,
    address: Address = None,
) -> None:
    """Take a worker out: no new work, what runs there ends or moves, then it ends."""
    from triptych.client import Client

    with Client(address, timeout=10.0) as client:
        client.drain(worker, timeout=timeout)
        if wait:
            follow(client, drained=(worker,))
        else:
            print(f"{worker} is being drained")


def scale(
    stages: Annotated[list[str], typer.Argument(help="Such as decode=2 prefill=0.", metavar="STAGE=WORKERS...")],
    *,
    wait: Wait = True,
    address: Address = None,
) -> None:
    """Set how many workers a stage has; new ones are started, superfluous ones drained."""
    from triptych.client import Client

    wanted = [parse_replicas(text) for text in stages]
    started: list[str] = []
    drained: list[str] = []
    with Client(address, timeout=10.0) as client:
        for stage, replicas in wanted:
            scaling = client.scale(stage, replicas)
            started += scaling.started
            drained += scaling.drained
        if not started and not drained:
            print("nothing to do")
        elif wait:
            follow(client, started=tuple(started), drained=tuple(drained))
        else:
            print("; ".join(_pending(started, "being started") + _pending(drained, "being drained")))


def parse_replicas(text: str) -> tuple[str, int]:
    """Reads "decode=2".

    Raises:
        InvalidArgument: it is anything else.
    """
    stage, _, count = text.partition("=")
    if stage not in ("encode", "prefill", "decode") or not (
        count.isdecimal() and count.isascii() and len(count) < 10
    ):
        raise InvalidArgument(
            f"a stage and its workers are written like decode=2, with encode, prefill or decode; got {text!r:.60}",
            field="stages",
        )
    return stage, int(count)


def follow(
    client: "Client",
    *,
    started: tuple[str, ...] = (),
    drained: tuple[str, ...] = (),
    pause: Callable[[], None] = lambda: time.sleep(_SECONDS_BETWEEN),
) -> None:
    """Shows what is still to be done until nothing is; then says what was done.

    Raises:
        TriptychError: the cluster does not answer.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("asking the cluster ...") as line:
        while left := pending(status := client.status(), started, drained):
            line.update(left)
            pause()
    there = {worker.worker_id for worker in status.workers}
    for worker in (*started, *drained):  # somebody else may have drained one of those that were to start
        print(f"{worker} {'serves' if worker in there else 'is gone'}")


def pending(status: "ClusterStatus", started: tuple[str, ...], drained: tuple[str, ...]) -> str:
    """What is still under way, in words; empty when all is done."""
    workers = {worker.worker_id: worker for worker in status.workers}
    parts = []
    for worker_id in started:
        worker = workers.get(worker_id)
        if worker and worker.health != "healthy":
            tries = f" (try {worker.restarts + 1})" if worker.restarts else ""
            parts.append(f"{worker_id} is {worker.health}{tries}")
    for worker_id in drained:
        if worker := workers.get(worker_id):
            running = worker.load.running_requests
            parts.append(f"{worker_id}: {running} {'request' if running == 1 else 'requests'} still there")
    return ", ".join(parts)


def _pending(workers: list[str], what: str) -> list[str]:
    return [f"{', '.join(workers)} {'is' if len(workers) == 1 else 'are'} {what}"] if workers else []
