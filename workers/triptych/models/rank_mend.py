"""Mending what one rank of several reads: the others wait, for as long as it takes."""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from triptych.experts.store import Mend, PackedStore
from triptych.parallel import Mesh
from triptych.parallel.patience import PATIENCE
from triptych.parallel.words import Word, told


@dataclass(frozen=True, slots=True)
class RankMend:
    """See `triptych.experts.store.Mend`; for where the other ranks ask whether this one has read its experts.

    To mend can mean to pack a whole model, which takes minutes; who is silent for so long counts as lost.

    Attributes:
        mend: What is done meanwhile.
        mesh: The ranks.
        device: Where they compute.
        every: Seconds from one word to the next.
    """

    mend: Mend
    mesh: Mesh
    device: torch.device
    every: float = PATIENCE / 5

    def __call__(self, layer: int, expert: int) -> PackedStore:
        """Mends, and says now and then that it still does.

        Raises:
            TriptychError: as `mend`.
            RankLost: another rank is gone; what has been begun is finished.
        """
        thread = ThreadPoolExecutor(1, "mending")
        try:
            mended = thread.submit(self.mend, layer, expert)
            while not wait([mended], self.every).done:
                told(self.mesh, Word.BUSY, self.device)
            return mended.result()
        finally:
            thread.shutdown(wait=False)
