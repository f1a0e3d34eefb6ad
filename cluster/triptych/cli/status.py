"""`triptych status`: what the cluster is doing."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from triptych.core.errors import TriptychError

if TYPE_CHECKING:
    from rich.console import Console

    from triptych.client import Client, ClusterStatus

_SECONDS_BETWEEN: Final = 0.5


def status(
    *,
    address: Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one table and leave.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and leave.")] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Print counts in the text format of Prometheus and leave.")
    ] = False,
) -> None:
    """Show workers, queues, KV use and the router's counters, until Ctrl-C."""
    from rich.console import Console

    from triptych.cli.metrics import metrics_text
    from triptych.cli.tables import cluster_table, to_json
    from triptych.client import Client

    console = Console(highlight=False)
    with Client(address, timeout=10.0) as client:
        if json:
            print(to_json(client.status()))
        elif metrics:
            print(metrics_text(client.status()), end="")
        elif once or not console.is_terminal:
            console.print(cluster_table(client.status()))
        else:
            watch(poll(client, lambda: time.sleep(_SECONDS_BETWEEN)), console)


def poll(client: "Client", pause: Callable[[], None]) -> "Iterator[ClusterStatus | TriptychError]":
    """The status again and again; a cluster that goes away after the first time is part of the story.

    Raises:
        TriptychError: there is no status the first time.
    """
    yield client.status()
    while True:
        pause()
        try:
            yield client.status()
        except TriptychError as error:
            yield error


def watch(snapshots: "Iterator[ClusterStatus | TriptychError]", console: "Console") -> None:
    """Redraws the table for each snapshot until they end or Ctrl-C; keeps the last table while there is an error."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from triptych.cli.tables import cluster_table

    table = Group()
    try:
        with Live(console=console, auto_refresh=False) as live:
            for snapshot in snapshots:
                if isinstance(snapshot, TriptychError):
                    live.update(Group(table, Text(f"error: {snapshot.message}", style="red")), refresh=True)
                else:
                    table = Group(cluster_table(snapshot))
                    live.update(table, refresh=True)
    except KeyboardInterrupt:
        return
