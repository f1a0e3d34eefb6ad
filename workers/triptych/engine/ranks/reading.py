"""Whether all ranks could read the experts of a step: they run it again together, or give it up together."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from triptych.engine.reading import ATTEMPTS, unread
from triptych.experts.residency import Residency
from triptych.parallel import Mesh
from triptych.parallel.words import Word, told

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CommonReading:
    """What a rank has read of a step, and what the others have.

    Attributes:
        residency: The rank's.
        mesh: The ranks.
        device: Where they compute.
    """

    residency: Residency
    mesh: Mesh
    device: torch.device

    def all_read(self, run: Callable[[], None]) -> str:
        """Returns when a step that has just run was computed with the experts that it asked for, on every rank.

        Args:
            run: Runs it again; all ranks do.

        Returns:
            Why it has not come to that, on all ranks; empty if it has.
        """
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            error = unread(self.residency)
            failed = self._failed(failed=error is not None)
            if not failed:
                return ""
            reason = str(error) if error is not None else f"rank {failed[0]} could not, as its log says"
            logger.warning("a step is %s: %s", "run again" if attempt < ATTEMPTS else "given up", reason)
            if attempt < ATTEMPTS:
                run()
        return reason

    def _failed(self, *, failed: bool) -> list[int]:
        """The ranks that have failed; on every rank the same. Who mends says so (`triptych.models.rank_mend`)."""
        word = Word.FAILED if failed else Word.DONE
        while Word.BUSY in (words := told(self.mesh, word, self.device)):
            pass
        return [rank for rank, each in enumerate(words) if each is Word.FAILED]
