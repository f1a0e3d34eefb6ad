"""Which of the waiting jobs go next: a pure rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from triptych.core.encoding.holdings import Holdings
from triptych.core.encoding.job import JobT

MAX_PICTURES = 16
"""New pictures of several jobs in one batch; a job that has more goes alone."""


@dataclass(frozen=True, slots=True)
class Selection(Generic[JobT]):
    """The first jobs of a queue that have room together.

    Attributes:
        found: Jobs whose pictures are all there, and intact.
        jobs: The others.
        pictures: What they lack, each once.
    """

    found: tuple[JobT, ...]
    jobs: tuple[JobT, ...]
    pictures: tuple[str, ...]


def select(queue: Iterable[JobT], holdings: Holdings) -> Selection[JobT]:
    """The first jobs whose pictures can all be held, beside what is held now, and computed together.

    A large job is not overtaken by small ones behind it: it would wait for ever.
    """
    room = holdings.budget_bytes - holdings.held_bytes
    found: list[JobT] = []
    jobs: list[JobT] = []
    claimed: dict[str, int] = {}
    new: dict[str, None] = {}
    for job in queue:
        for picture, size in job.size_of.items():
            if not holdings.holds(picture):
                claimed[picture] = holdings.size(picture) or size
        lacking = [picture for picture in job.pictures if not holdings.intact(picture)]
        together = new | dict.fromkeys(lacking)
        if sum(claimed.values()) > room or (new and len(together) > MAX_PICTURES):
            break
        (jobs if lacking else found).append(job)
        new = together
    return Selection(tuple(found), tuple(jobs), tuple(new))
