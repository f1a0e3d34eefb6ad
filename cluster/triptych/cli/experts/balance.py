"""`triptych experts`: how even the loads of ranks are that divide experts, and moving them."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from triptych.core.errors import DeadlineExceeded, FailedPrecondition

if TYPE_CHECKING:
    from rich.console import Console

    from triptych.client import Client, ExpertBalance

_SECONDS_BETWEEN: Final = 0.5
_PATIENCE: Final = 300.0
"""Seconds without progress; a worker gives the move of one layer up after a minute by default."""


def balance(
    workers: Annotated[list[str] | None, typer.Argument(help="Such as decode-0; by default all that can.")] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Move experts now, wherever that evens loads out.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="With --force: return when it is done.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    address: Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")] = None,
) -> None:
    """Show how even the loads of ranks are that divide experts, layer by layer; 1 is best."""
    from rich.console import Console

    from triptych.client import Client

    with Client(address, timeout=10.0) as client:
        if force:
            before = balances(client, workers or [])
            told = client.balance_experts(*workers or [])
            if wait:
                follow(client, {worker_id: before[worker_id].rebalances for worker_id in told if worker_id in before})
        seen = balances(client, workers or [])
    if json_:
        print(json.dumps({worker_id: asdict(one) for worker_id, one in seen.items()}, indent=2))
        return
    console = Console(highlight=False)
    for worker_id, one in seen.items():
        show(console, worker_id, one)


def balances(client: "Client", workers: list[str]) -> "dict[str, ExpertBalance]":
    """By worker, of those that have experts to move.

    Raises:
        FailedPrecondition: there are none.
    """
    status = client.status().workers
    found = {w.worker_id: w.experts for w in status if w.experts and (not workers or w.worker_id in workers)}
    if not found:
        who = " or ".join(workers) or "worker"
        raise FailedPrecondition(f"no {who} divides experts among ranks, and can move them", field="workers")
    return found


def follow(
    client: "Client",
    begun: dict[str, int],
    *,
    pause: Callable[[], None] = lambda: time.sleep(_SECONDS_BETWEEN),
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits until every worker has done one rebalance more than it had begun.

    One that is gone has none to do, nor has one that was started again: it has begun fewer.

    Raises:
        DeadlineExceeded: nothing moves any more.
        TriptychError: the cluster does not answer.
    """
    before: dict[str, tuple[int, int, int]] = {}
    since = clock()
    while True:
        seen = {worker.worker_id: worker.experts for worker in client.status().workers}
        pending = {w: one for w, count in begun.items() if (one := seen.get(w)) and _pending(one, count)}
        if not pending:
            return
        now = {w: (one.rebalances, one.commits, one.given_up) for w, one in pending.items()}
        if now != before:
            before, since = now, clock()
        elif clock() - since > _PATIENCE:
            raise DeadlineExceeded(f"{' and '.join(pending)} moved no experts for {_PATIENCE:g} s")
        pause()


def show(console: "Console", worker_id: str, balance: "ExpertBalance") -> None:
    """Prints a table of layers, and what has been done."""
    from rich.table import Table

    from triptych.cli.tables import balance_line

    console.print(balance_line(worker_id, balance), style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "now", "before its last move", "after it"):
        table.add_column(name, justify="right")
    for layer in balance.layers:
        table.add_row(str(layer.layer), _figure(layer.now), _figure(layer.before), _figure(layer.after))
    console.print(table)
    console.print(
        f"{balance.rebalances} rebalances, {balance.commits} layers moved: {balance.moved_experts} experts, "
        f"{balance.staged_bytes / 2**20:.1f} MiB, {balance.staging_us / 1e6:.2f} s in the background; "
        f"{balance.given_up} given up, {balance.slow_steps} slow steps"
    )


def _pending(balance: "ExpertBalance", begun: int) -> bool:
    return balance.rebalances == begun or (balance.rebalances > begun and balance.moving)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
