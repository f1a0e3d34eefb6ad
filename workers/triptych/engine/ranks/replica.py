"""The ranks of an offline engine, generation after generation."""

import logging

from triptych.core.errors import TriptychError, Unavailable
from triptych.engine.loading import convert_weights
from triptych.engine.ranks.group import RankGroup, StartFollowers
from triptych.engine.ranks.processes import RankProcesses
from triptych.engine.ranks.settings import RankSettings, require_divisible, require_gpus
from triptych.models.progress import SILENT, Progress
from triptych.models.spec import read_spec
from triptych.parallel import RankLost

logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""So many ranks may be lost in a row, without a step between them, before it is given up."""


class Replica:
    """Ranks on this host. When one is lost, all of them are started again.

    Args:
        settings: Of all ranks.
        progress: Hears of the first loading.
        start: Starts ranks 1 and up.

    Attributes:
        group: The ranks of now.

    Raises:
        Unavailable: the ranks cannot be started.
        TriptychError: the model cannot be loaded.
    """

    def __init__(
        self, settings: RankSettings, progress: Progress = SILENT, start: StartFollowers = RankProcesses
    ) -> None:
        require_divisible(read_spec(settings.files).decoder, settings.parallelism)
        require_gpus(settings.device, settings.parallelism.size)
        # Once, and where it is seen; the ranks find it done.
        convert_weights(settings.files, settings.dtype, settings.quantization, settings.adapters, progress=progress)
        self._settings = settings
        self._start = start
        self._losses = 0
        self.group = self._open(progress)

    def finished(self) -> None:
        """A step is done: the ranks are well."""
        self._losses = 0

    def rebuild(self, lost: RankLost) -> None:
        """Ends what is left of the ranks, and starts all of them again; their KV is empty.

        Args:
            lost: Why.

        Raises:
            Unavailable: it does not help.
        """
        self.group.kill()
        self._count(lost)
        self.group = self._open(SILENT)
        logger.warning("all %d ranks run again", self._settings.parallelism.size)

    def close(self) -> None:
        """Ends all ranks."""
        self.group.close()

    def _open(self, progress: Progress) -> RankGroup:
        while True:
            try:
                return RankGroup(self._settings, progress, self._start)
            except RankLost as lost:
                match lost.__cause__:
                    case TriptychError() as error if not isinstance(error, Unavailable):
                        raise error from None  # of the settings: another try ends alike
                self._count(lost)

    def _count(self, lost: RankLost) -> None:
        self._losses += 1
        if self._losses == MAX_LOSSES:
            self._losses = 0  # whoever asks again may be luckier
            raise Unavailable(f"{MAX_LOSSES} times in a row ranks were lost; the last time: {lost.message}") from lost
        logger.warning("the ranks are started again: %s", lost.message)
