"""Images of a batch divided among the ranks of a replica: every rank has the vision tower, and encodes its share."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from triptych.core.errors import Internal, TriptychError
from triptych.engine.eyes import Eyes, Shown
from triptych.engine.ranks.images import HoldEmbedding
from triptych.engine.threads import torch_threads
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub

logger = logging.getLogger(__name__)

_PATIENCE = 120.0
"""Seconds that an image, or a video, may take a rank. The channel notices sooner who is gone or stands still."""


@dataclass(frozen=True, slots=True)
class SeeImage:
    """Rank 0 to one other: encode this, and answer with `HoldEmbedding` or `NotSeen`."""

    name: str
    image: Shown


@dataclass(frozen=True, slots=True)
class NotSeen:
    """A rank to rank 0: this is why there is no embedding."""

    name: str
    error: TriptychError


class FollowerEyes:
    """The vision tower of a rank that plans nothing; opened at the first image.

    It has a thread of its own: steps, which the other ranks wait for, do not wait for images.

    Args:
        open_eyes: Opens it.
        threads: That it may use.
        send: Reaches rank 0.
    """

    def __init__(self, open_eyes: Callable[[], Eyes], threads: int, send: Callable[[object], None]) -> None:
        self._open = open_eyes
        self._threads = threads
        self._send = send
        self._thread = ThreadPoolExecutor(1, "eyes")

    @property
    def handlers(self) -> Mapping[type, Callable[[Any], None]]:
        """What a follower does with messages of this kind."""
        return {SeeImage: self._take}

    def close(self) -> None:
        """Ends the thread; images that wait are forgotten."""
        self._thread.shutdown(cancel_futures=True)

    def _take(self, message: SeeImage) -> None:
        self._thread.submit(self._see, message)

    def _see(self, message: SeeImage) -> None:
        """Encodes an image; one at a time, so that it has the same bytes in any company."""
        try:
            with torch_threads(self._threads):
                embedding = self._eyes.look(message.image)
        except TriptychError as error:
            self._send(NotSeen(message.name, error))
        except Exception as error:
            logger.exception("an image could not be encoded")
            self._send(NotSeen(message.name, Internal(f"{message.image.field} could not be encoded: {error}")))
        else:
            self._send(HoldEmbedding.carrying(message.name, embedding))

    @cached_property
    def _eyes(self) -> Eyes:
        return self._open()


class DividedEyes:
    """Rank 0's side: deals images out, encodes its own share, and collects the others. For one thread.

    Args:
        hub: Reaches the other ranks, all of which are there.
        ranks: How many there are, rank 0 included.
    """

    def __init__(self, hub: Hub, ranks: int) -> None:
        self._hub = hub
        self._ranks = ranks
        self._answers: SimpleQueue[HoldEmbedding | NotSeen | RankLost] = SimpleQueue()
        hub.subscribe(HoldEmbedding, lambda _, answer: self._answers.put(answer))
        hub.subscribe(NotSeen, lambda _, answer: self._answers.put(answer))
        hub.on_lost(self._answers.put)

    def see(self, images: Mapping[str, Shown], look: Callable[[Shown], Tensor]) -> dict[str, Tensor]:
        """The embedding [1 + levels, rows, hidden] of every image, each encoded on one rank.

        Args:
            images: By name.
            look: Encodes one here.

        Raises:
            RankLost: a rank is gone.
            TriptychError: an image cannot be encoded; of several, the first.
        """
        return {name: _seen(result) for name, result in self.try_all(images, look).items()}

    def try_all(
        self, images: Mapping[str, Shown], look: Callable[[Shown], Tensor]
    ) -> dict[str, Tensor | TriptychError]:
        """The same, with the error in the place of an image that cannot be encoded.

        Raises:
            RankLost: a rank is gone.
        """
        dealt = dict(zip(images, deal([image.rows for image in images.values()], self._ranks), strict=True))
        for name, rank in dealt.items():
            if rank:
                self._hub.send(SeeImage(name, images[name]), (rank,))
        found = {name: _tried(look, images[name]) for name, rank in dealt.items() if rank == 0}
        while len(found) < len(images):
            found |= self._answer(images)
        return {name: found[name] for name in images}

    def _answer(self, asked: Mapping[str, Shown]) -> dict[str, Tensor | TriptychError]:
        """The next one; nothing, where it answers what was asked before this and then given up."""
        try:
            answer = self._answers.get(timeout=_PATIENCE)
        except Empty:
            raise self._hub.blame(RankLost(f"no rank has sent an embedding for {_PATIENCE:g} s")) from None
        match answer:
            case RankLost():
                raise answer
            case HoldEmbedding(name=name):
                return {name: answer.tensor()} if name in asked else {}
            case NotSeen(name, error):
                return {name: error} if name in asked else {}


def deal(work: Sequence[int], ranks: int) -> tuple[int, ...]:
    """Which rank does each piece: the largest first, each to the rank with the least so far.

    Args:
        work: Of each piece.
        ranks: How many there are.
    """
    loads, owners = [0] * ranks, [0] * len(work)
    for piece in sorted(range(len(work)), key=lambda i: -work[i]):
        owners[piece] = min(range(ranks), key=loads.__getitem__)
        loads[owners[piece]] += work[piece]
    return tuple(owners)


def _tried(look: Callable[[Shown], Tensor], image: Shown) -> Tensor | TriptychError:
    try:
        return look(image)
    except TriptychError as error:
        return error


def _seen(result: Tensor | TriptychError) -> Tensor:
    if isinstance(result, TriptychError):
        raise result
    return result
