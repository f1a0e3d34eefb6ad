"""Where every sequence of an engine stands, from its arrival to its release."""

from collections import deque
from collections.abc import Iterator

from triptych.core.generation import OperationKey
from triptych.engine.sequence import Media, Sequence


class Roster:
    """Every sequence, in exactly one place; each place keeps the order of arrival.

    Attributes:
        waiting: Without blocks, for a place in the batch.
        running: In the batch.
        ready: With blocks and KV, for a place in the batch.
        stalled: Preempted, and their embeddings are elsewhere.
        parked: With blocks, computing nothing: reserved or ended.
    """

    def __init__(self) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        self.ready: dict[Sequence, None] = {}
        self.stalled: dict[Sequence, None] = {}
        self.parked: dict[Sequence, None] = {}
        self._by_key: dict[OperationKey, Sequence] = {}

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: OperationKey) -> Sequence | None:
        """The sequence of that key, unless it has been removed."""
        return self._by_key.get(key)

    def wait(self, sequence: Sequence) -> None:
        """A new sequence, at the end of the queue."""
        self._by_key[sequence.key] = sequence
        self.waiting.append(sequence)

    def hold(self, sequence: Sequence) -> None:
        """A new sequence whose blocks somebody else writes."""
        self._by_key[sequence.key] = sequence
        self.parked[sequence] = None

    def make_ready(self, sequence: Sequence) -> None:
        """A parked sequence may compute."""
        del self.parked[sequence]
        self.ready[sequence] = None

    def promote(self, places: int) -> None:
        """Sequences that have their KV take the places that are left of so many."""
        while self.ready and len(self.running) < places:
            sequence = next(iter(self.ready))
            del self.ready[sequence]
            self.running[sequence] = None

    def admit(self) -> None:
        """The longest waiting sequence runs."""
        self.running[self.waiting.popleft()] = None

    def send_back(self, sequence: Sequence) -> None:
        """A running sequence gave its blocks back; it is the next to run, once its embeddings are here."""
        del self.running[sequence]
        if sequence.can_recompute:
            self.waiting.appendleft(sequence)
        else:
            self.stalled[sequence] = None

    def supply(self, key: OperationKey, media: tuple[Media, ...]) -> None:
        """The embeddings of a stalled sequence are here; nothing happens for any other."""
        sequence = self.find(key)
        if sequence in self.stalled:
            del self.stalled[sequence]
            sequence.media = media
            self.waiting.appendleft(sequence)

    def park(self, sequence: Sequence) -> None:
        """It computes no more."""
        self._leave(sequence)
        self.parked[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """It is gone."""
        self._leave(sequence)
        del self._by_key[sequence.key]

    def _leave(self, sequence: Sequence) -> None:
        for place in (self.running, self.parked, self.ready, self.stalled):
            if sequence in place:
                del place[sequence]
                return
        self.waiting.remove(sequence)
