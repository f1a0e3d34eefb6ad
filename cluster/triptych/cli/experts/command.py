"""`triptych experts`: the commands."""

import typer

from triptych.cli.experts.balance import balance
from triptych.cli.experts.pack import pack
from triptych.cli.experts.record import record
from triptych.cli.experts.replay import replay
from triptych.cli.experts.train import train

experts = typer.Typer(
    help="Experts of a mixture: their balance among ranks, and keeping those in memory that do not all fit.",
    no_args_is_help=True,
)
experts.command("balance")(balance)
experts.command("pack")(pack)
experts.command("record")(record)
experts.command("replay")(replay)
experts.command("train")(train)
