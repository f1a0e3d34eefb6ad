"""The command; imports what it needs when it runs."""

from typing import Annotated

import typer


def demo(
    compare: Annotated[bool, typer.Option(help="Measure transformers' generate on the same model too.")] = True,
) -> None:
    """Start one encode, one prefill and one decode worker here, chat, read eight digits, measure, and stop."""
    from rich.console import Console

    from triptych.cli.demo.show import run_demo

    if not run_demo(Console(highlight=False, soft_wrap=True), compare=compare):
        raise typer.Exit(1)
