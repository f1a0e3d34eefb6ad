"""A conversation at the terminal: what has been said, and the loop that goes on with it."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from rich.console import Console

from triptych.cli.answer import Shown
from triptych.cli.report import report_error
from triptych.client import ChatMessage, ImagePart, ImageSource, InvalidArgument, TextPart, TriptychError, load_image

with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - gives input() line editing and a history

Answer = Callable[[Sequence[ChatMessage]], Shown]
"""Shows the answer to the messages so far."""

_COMMANDS: Final = "/image FILE, /clear, /exit"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What has been said.

    Attributes:
        messages: From the first to the last.
        images: Pictures that go with the next question.
    """

    messages: tuple[ChatMessage, ...] = ()
    images: tuple[ImagePart, ...] = ()

    @classmethod
    def begin(cls, system: str) -> Self:
        """A conversation under instructions; none when they are empty."""
        return cls((ChatMessage("system", (TextPart(system),)),) if system else ())

    def attach(self, *sources: ImageSource) -> Self:
        """Pictures for the next question.

        Raises:
            TriptychError: a file cannot be read; names it.
        """
        return replace(self, images=self.images + tuple(load_image(source) for source in sources))

    def ask(self, text: str) -> Self:
        """The user's turn."""
        question = ChatMessage("user", (*self.images, TextPart(text)))
        return replace(self, messages=(*self.messages, question), images=())

    def answered(self, text: str) -> Self:
        """The assistant's turn."""
        return replace(self, messages=(*self.messages, ChatMessage("assistant", (TextPart(text),))))

    def cleared(self) -> Self:
        """Nothing but the instructions."""
        return replace(self, messages=tuple(m for m in self.messages if m.role == "system"), images=())


def converse(conversation: Conversation, answer: Answer, console: Console, read: Callable[[], str]) -> None:
    """Takes turns until the input ends or the user leaves; an error costs one turn, not the conversation.

    Args:
        conversation: Where it begins.
        answer: Shows the answer to the messages so far.
        console: Where hints go.
        read: The user's next line; raises EOFError at the end and KeyboardInterrupt at Ctrl-C.
    """
    if console.is_terminal:
        console.print(f"{_COMMANDS}; Ctrl-C stops an answer, Ctrl-D leaves", style="dim")
    while True:
        try:
            line = read().strip()
            if line == "/exit":
                return
            conversation = _turn(conversation, line, answer)
        except TriptychError as error:
            report_error(error)
        except KeyboardInterrupt:
            console.print()
        except EOFError:
            return


def read_line() -> str:
    """The next line of standard input, asked for when a person types it."""
    return input("> " if sys.stdin.isatty() else "")


def _turn(conversation: Conversation, line: str, answer: Callable[[Sequence[ChatMessage]], Shown]) -> Conversation:
    match line.split(maxsplit=1):
        case []:
            return conversation
        case ["/clear"]:
            return conversation.cleared()
        case ["/image", path]:
            return conversation.attach(Path(path).expanduser())
        case [word, *_] if word.startswith("/"):
            raise InvalidArgument(f"there is no command {line!r:.60}; there are {_COMMANDS}")
        case _:
            return _asked(conversation, line, answer)


def _asked(conversation: Conversation, line: str, answer: Callable[[Sequence[ChatMessage]], Shown]) -> Conversation:
    asked = conversation.ask(line)
    try:
        shown = answer(asked.messages)
    except TriptychError as error:
        report_error(error)
        return replace(conversation, images=())
    return asked.answered(shown.text) if shown.text else replace(conversation, images=())
