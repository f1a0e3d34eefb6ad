"""Entry point: each command lives in the module of its name."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from triptych.cli.bench.command import bench
from triptych.cli.changes import drain, scale
from triptych.cli.chat import chat
from triptych.cli.demo.command import demo
from triptych.cli.experts.command import experts
from triptych.cli.kernels import kernels
from triptych.cli.models.command import models
from triptych.cli.report import report_defect, report_error
from triptych.cli.serve import serve
from triptych.cli.simulate import simulate_command
from triptych.cli.status import status
from triptych.cli.trace import trace
from triptych.core.errors import TriptychError

app = typer.Typer(
    help="Serve language and vision-language models: encode, prefill, decode.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(chat)
app.command()(status)
app.command()(drain)
app.command()(scale)
app.command()(trace)
app.command()(demo)
app.command("simulate")(simulate_command)
app.add_typer(bench, name="bench")
app.add_typer(experts, name="experts")
app.add_typer(kernels, name="kernels")
app.add_typer(models, name="models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and leaves the process: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(args=arguments, prog_name="triptych")
    except TriptychError as error:
        report_error(error)
    except Exception as error:
        report_defect(error)
    sys.exit(1)


@app.command("version")
def print_version() -> None:
    """Print the version."""
    print(f"triptych {version('triptych')}")


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=lambda on: _version(on))
    ] = False,
) -> None:
    del show_version


def _version(wanted: bool) -> None:
    if wanted:
        print_version()
        raise typer.Exit
