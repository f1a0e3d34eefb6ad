"""Wires between machines: latency, jitter, bandwidth, partitions, and messages that go astray."""

import enum
from collections import Counter
from dataclasses import dataclass
from random import Random

from triptych.simulator.agenda import Action, Agenda, Lane
from triptych.simulator.scenario import MessageFaultSpec, NetworkSpec


class Mishap(enum.StrEnum):
    """What happens to one message."""

    LOST = "lost message"
    DOUBLED = "doubled message"
    REORDERED = "reordered message"
    DELAYED = "delayed message"


@dataclass(slots=True)
class Wire:
    """One direction between two machines.

    Attributes:
        blocked_until: True time at which a partition ends; what is sent before arrives after it.
        last_arrival: When the last message of the wire arrives: the next does not overtake it.
    """

    source: str
    target: str
    blocked_until: float = 0.0
    last_arrival: float = 0.0


class Network:
    """Every wire of the cluster.

    Args:
        agenda: When things arrive.
        spec: How fast wires are.
        faults: How often messages of streams go astray.
        random: Draws jitter and mishaps.
    """

    def __init__(self, agenda: Agenda, spec: NetworkSpec, faults: MessageFaultSpec, random: Random) -> None:
        self.mishaps: Counter[str] = Counter()
        self.messages = 0
        self.faulty_until = float("inf")
        self._agenda = agenda
        self._spec = spec
        self._random = random
        self._wires: dict[tuple[str, str], Wire] = {}
        self._delay_seconds = faults.delay_seconds
        shares = (faults.lost, faults.doubled, faults.reordered, faults.delayed)
        self._odds = tuple(zip(Mishap, shares, strict=True)) if any(shares) else ()

    def wire(self, source: str, target: str) -> Wire:
        """The direction from one machine to another."""
        wire = self._wires.get((source, target))
        if wire is None:
            wire = self._wires[source, target] = Wire(source, target)
        return wire

    def partition(self, source: str, target: str, until: float) -> None:
        """Nothing arrives in this direction before a moment of true time."""
        wire = self.wire(source, target)
        wire.blocked_until = max(wire.blocked_until, until)

    def reachable(self, source: str, target: str) -> bool:
        """Whether no partition lies between them now, in either direction."""
        now = self._agenda.now
        return self.wire(source, target).blocked_until <= now and self.wire(target, source).blocked_until <= now

    def carry(self, wire: Wire, arrive: Action, lane: Lane, size: int = 0, *, ordered: bool = True) -> None:
        """Brings something to the other end, behind everything that is on its way there unless `ordered` is off.

        Args:
            wire: The direction.
            arrive: What happens there.
            lane: In which thread.
            size: Bytes.
            ordered: Whether it keeps its place among the others.
        """
        self.messages += 1
        arrival = self._arrival(wire, size)
        if ordered:
            arrival = wire.last_arrival = max(arrival, wire.last_arrival)
        self._agenda.at(arrival, arrive, lane)

    def carry_message(self, wire: Wire, arrive: Action, lane: Lane, size: int) -> Mishap | None:
        """Like `carry`, for a message of a stream, which may meet a mishap; says which."""
        mishap = self._draw()
        match mishap:
            case None:
                self.carry(wire, arrive, lane, size)
            case Mishap.LOST:
                pass
            case Mishap.DOUBLED:
                self.carry(wire, arrive, lane, size)
                self.carry(wire, arrive, lane, size)
            case Mishap.REORDERED:
                late = self._arrival(wire, size) + 4 * (self._spec.latency + self._spec.jitter)
                self._agenda.at(late, arrive, lane)
            case Mishap.DELAYED:
                wire.last_arrival = max(wire.last_arrival, self._agenda.now) + self._delay_seconds
                self.carry(wire, arrive, lane, size)
        return mishap

    def _draw(self) -> Mishap | None:
        if not self._odds or self._agenda.now > self.faulty_until:
            return None
        draw = self._random.random()
        for mishap, share in self._odds:
            if draw < share:
                self.mishaps[mishap] += 1
                return mishap
            draw -= share
        return None

    def _arrival(self, wire: Wire, size: int) -> float:
        start = max(self._agenda.now, wire.blocked_until)
        delay = self._spec.latency + self._spec.jitter * self._random.random()
        return start + delay + size / self._spec.bandwidth
