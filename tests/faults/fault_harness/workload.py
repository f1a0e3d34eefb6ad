"""Requests of many kinds at once, their answers, and when each token came."""

import math
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from triptych.cli.demo.digits import Digit
from triptych.client import Client
from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.core.usage import Usage

OnToken = Callable[[int], None]

TEXT = """
harbour lantern winter cartographer machine river the of and a under salt orchard bridge quiet engine copper letter
when seven wolves market clock glass over mountain it was signal paper garden thread iron moon
"""
WORDS = TEXT.split()


@dataclass(frozen=True)
class Question:
    """One request, the same each time that it is asked.

    Attributes:
        digit: A picture that goes before the text.
        options: Keywords of `Client.stream`.
        answer: The tokens that follow, whatever happens.
    """

    text: str
    digit: Digit | None
    options: dict[str, Any]
    answer: tuple[int, ...] = ()

    def prompt(self) -> str | list[ChatMessage]:
        """The prompt; a picture's file differs every time, so that no cache knows it, and shows the same."""
        if self.digit is None:
            return self.text
        return [ChatMessage("user", (ImagePart(unheard_of(self.digit.png)), TextPart(self.text)))]

    def with_options(self, **options: Any) -> "Question":
        """The same question, asked in another way."""
        return replace(self, options=self.options | options)


class Countdown:
    """Does something once, when so many tokens have come to all clients together.

    Attributes:
        reached: Monotonic seconds of that moment; None before it.
    """

    def __init__(self, tokens: int, then: Callable[[], object]) -> None:
        self.reached: float | None = None
        self._left = tokens
        self._then = then
        self._lock = threading.Lock()

    def __call__(self, tokens: int) -> None:
        with self._lock:
            self._left -= tokens
            if self._left > 0 or self.reached is not None:
                return
            self.reached = time.monotonic()
        self._then()


@dataclass
class Told:
    """What a client has been told.

    Attributes:
        arrivals: Monotonic seconds of each message with tokens.
        usage: None for a stream that did not end well.
        workers: Who has worked on it.
    """

    question: Question
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    finish_reason: str = ""
    usage: Usage | None = None
    workers: tuple[str, ...] = ()
    error: Exception | None = None

    @property
    def answer(self) -> tuple[tuple[int, ...], str, str]:
        """What must be the same every time."""
        return tuple(self.tokens), self.text, self.finish_reason

    @property
    def pause(self) -> float:
        """Seconds between the two tokens furthest apart."""
        return max((b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)), default=0.0)

    def next_after(self, moment: float) -> float | None:
        """Seconds from a moment to the next token."""
        return next((arrival - moment for arrival in self.arrivals if arrival > moment), None)


def ignore(tokens: int) -> None:
    """For whoever does not count."""


def unheard_of(png: bytes) -> bytes:
    """The same picture with another comment in its file."""
    body = b"tEXtComment\0" + random.randbytes(8).hex().encode()
    chunk = struct.pack("!I", len(body) - 4) + body + struct.pack("!I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]  # signature and IHDR come first


def draw_question(rng: random.Random, index: int, digits: Sequence[Digit]) -> Question:
    """By the index short or long, split or colocated, greedy or sampled; every other one with a digit, if any."""
    digit = rng.choice(digits) if digits and index % 2 else None
    text = " ".join(rng.choices(WORDS, k=(12, 40, 110)[index % 3]))
    placement = (Placement.DISAGGREGATED, Placement.DISAGGREGATED, Placement.COLOCATED, Placement.ANY)[index // 2 % 4]
    options = {"max_tokens": rng.randint(40, 48), "ignore_eos": True, "placement": placement}
    match index // 4 % 4:
        case 1:
            sampling: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "seed": rng.getrandbits(40)}
        case 3:  # the random numbers follow from the id
            sampling = {"temperature": 0.7, "top_p": 0.95, "request_id": f"question-{rng.getrandbits(40)}"}
        case _:
            sampling = {"temperature": 0.0}
    return Question(text, digit, options | sampling)


def ask(client: Client, question: Question, leave_after: float = math.inf, on_token: OnToken = ignore) -> Told:
    """Asks one question, and goes away once there are `leave_after` tokens."""
    told = Told(question)
    try:
        with client.stream(question.prompt(), **question.options) as stream:
            while len(told.tokens) < leave_after and (piece := next(stream, None)):
                if piece.token_ids:
                    told.arrivals.append(time.monotonic())
                told.tokens += piece.token_ids
                told.text += piece.text
                on_token(len(piece.token_ids))
            if leave_after == math.inf:
                result = stream.result()
                told.finish_reason, told.usage = str(result.finish_reason), result.usage
                told.workers = tuple(sorted({span.worker for span in result.timeline if span.worker}))
    except Exception as error:
        told.error = error
    return told


def ask_all(
    client: Client,
    questions: Sequence[Question],
    *,
    leaving: Mapping[int, int] = MappingProxyType({}),
    on_token: OnToken = ignore,
) -> list[Told]:
    """Asks all at once.

    Args:
        client: Whom.
        questions: What.
        leaving: After how many tokens the client of a question goes away.
        on_token: Called with the number of tokens in each message of any answer.
    """

    def one(index: int) -> Told:
        return ask(client, questions[index], leaving.get(index, math.inf), on_token)

    with ThreadPoolExecutor(len(questions)) as threads:
        return list(threads.map(one, range(len(questions))))
