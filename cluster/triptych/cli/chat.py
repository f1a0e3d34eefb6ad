"""`triptych chat`: one question, or a conversation."""

from pathlib import Path
from typing import Annotated

import typer


def chat(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it a conversation begins.")] = None,
    *,
    image: Annotated[list[Path] | None, typer.Option(help="A picture to ask about; may be repeated.")] = None,
    system: Annotated[str, typer.Option(help="Instructions that precede the conversation.")] = "",
    address: Annotated[str | None, typer.Option(help="HOST:PORT; by default TRIPTYCH_ADDRESS.")] = None,
    model: Annotated[str, typer.Option(help="Name of the model; by default the one that is served.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Upper bound of generated tokens.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest token; by default what the model says, or 0.2.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the likeliest tokens of this probability; by default what the model says."),
    ] = None,
    chat_template_kwargs: Annotated[
        str, typer.Option(help="""Variables of the chat template as JSON, such as '{"enable_thinking": false}'.""")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Show where the time of an answer went.")] = False,
) -> None:
    """Talk to a cluster.

    In a conversation, /image FILE attaches a picture to the next question, /clear begins anew and /exit leaves;
    Ctrl-C stops an answer and Ctrl-D leaves.
    """
    from rich.console import Console

    from triptych.cli.answer import Answerer, calm
    from triptych.cli.conversation import Conversation, converse, read_line
    from triptych.cli.notes import client_notes
    from triptych.client import Client, SamplingParams
    from triptych.core.chat import parse_json

    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    variables = parse_json(chat_template_kwargs, "--chat-template-kwargs") if chat_template_kwargs else {}
    conversation = Conversation.begin(system).attach(*(image or ()))
    console = Console(highlight=False)
    with client_notes(), Client(address) as client:
        if temperature is None:
            sampling = calm(sampling, client.models())
        answerer = Answerer(client, console, sampling, model, timeline, variables)
        if prompt is None:
            converse(conversation, answerer, console, read_line)
        elif answerer(conversation.ask(prompt).messages).stopped:
            raise typer.Exit(130)
