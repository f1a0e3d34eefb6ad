"""A client: asks, listens, loses its connection, comes back, loses patience."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from triptych.core.desk import Entry
from triptych.core.errors import Cancelled, DeadlineExceeded, TriptychError, Unavailable
from triptych.core.generation import FinishReason
from triptych.simulator import messages as msg
from triptych.simulator.agenda import WORLD

if TYPE_CHECKING:
    from triptych.simulator.router import Router
    from triptych.simulator.world import World

RECONNECT_SECONDS = 0.25
DEADLINE_SLACK = 2.0
"""Seconds that a client leaves its router to tell it that the deadline has passed."""


class Whim(enum.StrEnum):
    """What a client does in the middle of its answer."""

    NONE = "stays"
    CANCEL = "client cancels"
    DISCONNECT = "client disconnects"


@dataclass(frozen=True, slots=True)
class Wish:
    """One request as it will be made.

    Attributes:
        arrives: Seconds after the cluster is ready.
        answer: The tokens of the undisturbed run.
        whim_at: After so many tokens; at once where they are 0.
        away: Seconds without a connection; None for a client that does not come back.
    """

    ask: msg.Ask
    arrives: float
    answer: tuple[int, ...]
    whim: Whim = Whim.NONE
    whim_at: int = 0
    away: float | None = None


class Line:
    """One connection of a client to the router."""

    def __init__(self, client: Client, router: Router) -> None:
        self.client = client
        self.router = router
        self.entry: Entry | None = None

    def send(self, message: msg.ToClient) -> None:
        """From the router to the client."""
        world = self.client.world
        wire = world.network.wire("router", self.client.name)
        world.network.carry(wire, lambda: self.client.hear(self, message), WORLD)

    def close(self) -> None:
        """The router's process has ended."""
        world = self.client.world
        world.network.carry(world.network.wire("router", self.client.name), lambda: self.client.broken(self), WORLD)


class Client:
    """A client of one request.

    Args:
        wish: What it wants.
        world: What it is part of.
    """

    def __init__(self, wish: Wish, world: World) -> None:
        self.wish = wish
        self.world = world
        self.name = wish.ask.request_id
        self.received: list[int] = []
        self.outcome: FinishReason | TriptychError | None = None
        self.refused = False
        self.resumes = 0
        self.started = 0.0
        self.heard = 0.0
        self.longest_silence = 0.0
        self.longest_wait = 0.0
        self.first_token: float | None = None
        self._line: Line | None = None
        self._whim = wish.whim
        self._contacts = 0
        self._taken = False
        self._away_until = 0.0

    def start(self) -> None:
        """Makes the request."""
        self.started = self.heard = self.world.agenda.now
        if self.wish.ask.timeout is not None:
            self.world.agenda.after(self.wish.ask.timeout + DEADLINE_SLACK, self._give_up)
        self._contact()
        if self._whim is not Whim.NONE and self.wish.whim_at == 0:
            self.world.agenda.after(0.01, self._follow_whim)

    def hear(self, line: Line, message: msg.ToClient) -> None:
        """The router says something."""
        if line is not self._line:
            return
        match message:
            case msg.Said(tokens):
                self._progress()
                self._taken = True
                self.received += tokens
                self.world.check.said(self, tokens)
                if self._whim is not Whim.NONE and len(self.received) >= self.wish.whim_at:
                    self._follow_whim()
            case msg.Done(outcome):
                self._line = None
                self.refused = isinstance(outcome, Unavailable) and self._nobody_is_to_serve_it()
                self._end(outcome)
            case msg.Refusal(error):
                self._line = None
                self._refused(error)
            case unknown:
                assert_never(unknown)

    def broken(self, line: Line) -> None:
        """The connection was lost by the other side."""
        if line is self._line:
            self._line = None
            self._taken = self._taken or line.entry is not None
            self.world.agenda.after(RECONNECT_SECONDS, self._contact)

    def _contact(self) -> None:
        if self.outcome is not None:
            return
        router, world, ask = self.world.router, self.world, self.wish.ask
        self._contacts += 1
        if router is None:
            self._refused(Unavailable("the router cannot be reached", retry_after=RECONNECT_SECONDS))
            return
        if ask.timeout is not None:
            left = self.started + ask.timeout - world.agenda.now
            ask = replace(ask, timeout=max(0.001, left))
        if self._taken:
            ask = replace(ask, received=tuple(self.received))
            self.resumes += 1
        line = self._line = Line(self, router)
        router.open[line] = None
        resumes = f", comes back with {len(self.received)} tokens" if ask.received is not None else ""
        world.transcript.note(self.name, "router", f"Generate {len(ask.prompt.token_ids)} tokens{resumes}")
        world.network.carry(world.network.wire(self.name, "router"), lambda: router.generate(ask, line), router.io)

    def _refused(self, error: TriptychError) -> None:
        """Tries again, for as long as it has patience."""
        patient = self.world.agenda.now < self.heard + self.world.spec.requests.patience
        if patient and error.retry_after is not None:
            self.world.agenda.after(error.retry_after, self._contact)
        else:
            self.refused = not self._taken
            self._end(error)

    @property
    def _wants_a_pair(self) -> bool:
        return self.wish.ask.colocated is False

    def _nobody_is_to_serve_it(self) -> bool:
        """Whether somebody's order has left it without workers for as long as a request waits for some."""
        world = self.world
        return self._wants_a_pair and world.troubles.vacant_for >= world.spec.cluster.replay_patience

    def _follow_whim(self) -> None:
        whim, self._whim = self._whim, Whim.NONE
        if self.outcome is not None or self._line is None:
            return
        self.world.injected[whim] += 1
        self._hang_up()
        if whim is Whim.CANCEL or self.wish.away is None:
            self._end(Cancelled("the client has what it wants"))
        else:
            self._taken = True
            self._away_until = self.world.agenda.now + self.wish.away
            self.world.agenda.after(self.wish.away, self._contact)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line:
            world = self.world
            world.transcript.note(self.name, "router", "hangs up")
            wire = world.network.wire(self.name, "router")
            world.network.carry(wire, lambda: line.router.left(line), line.router.io)

    def _give_up(self) -> None:
        """The deadline is over by the client's own watch."""
        if self.outcome is None:
            self._hang_up()
            self._end(DeadlineExceeded("the client's deadline passed"))

    def _progress(self) -> None:
        now = self.world.agenda.now
        self._measure(now)
        self.heard = now
        if self.first_token is None:
            self.first_token = now - self.started

    def _measure(self, now: float) -> None:
        """A silence is over; the part of it that no misfortune and no absence accounts for is the cluster's."""
        self.longest_silence = max(self.longest_silence, now - self.heard)
        start = max(self.heard, self._away_until)
        if now - start > self.longest_wait:
            calm = self.world.troubles.calm(start, now, for_pairs=self._wants_a_pair)
            self.longest_wait = max(self.longest_wait, calm)

    def _end(self, outcome: FinishReason | TriptychError) -> None:
        self.world.check.ended(self, outcome)
        self._measure(self.world.agenda.now)
        self.outcome = outcome
        what = outcome if isinstance(outcome, FinishReason) else f"{type(outcome).__name__}: {outcome.message}"
        self.world.transcript.note(self.name, "", f"ends after {len(self.received)} tokens: {what}")
