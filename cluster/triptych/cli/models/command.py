"""`triptych models`: the commands."""

import typer

from triptych.cli.models.checking import check
from triptych.cli.models.converting import convert
from triptych.cli.models.listing import list_models

models = typer.Typer(help="List, check and convert models.", no_args_is_help=True)
models.command("list")(list_models)
models.command("check")(check)
models.command("convert")(convert)
