"""The packed experts of a model in twelve bits a weight, where they are bfloat16 and their exponents allow it."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from triptych.core.errors import DataLoss, TriptychError
from triptych.experts.store import NotCompact, PackedStore, compact_layout, in_twelve_bits
from triptych.kernels import moe, native
from triptych.kernels.dispatch import REFERENCE
from triptych.kernels.native.building import obtainable
from triptych.models.cache import files_key, holding
from triptych.models.checkpoint import open_checkpoint
from triptych.models.conversion import cache_folder
from triptych.models.expert_pack import ExpertPack
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress

logger = logging.getLogger(__name__)

_KIND: Final = "-compact-"
_REFUSED: Final = ".plain"
_RULE: Final = "1"
"""Of what `in_twelve_bits` takes; what an earlier one has refused is tried again."""


@dataclass(slots=True)
class CompactPack:
    """That file, or where an expert does not allow it the one of plain numbers.

    Attributes:
        compact: In twelve bits a weight.
        plain: As the checkpoint has them.
        refused: A file that names the rule by which an expert has not allowed it: nobody tries that again.
    """

    compact: ExpertPack
    plain: ExpertPack
    refused: Path
    _opened: ExpertPack | None = field(default=None, init=False)

    @classmethod
    def of(cls, plain: ExpertPack) -> "ExpertPack | CompactPack":
        """Finds the place of the file beside the plain one's; that one itself where experts have no such form."""
        layouts = [compact_layout(layer.layout) for layer in plain.layers]
        layers = tuple(
            replace(layer, layout=layout)
            for layer, layout in zip(plain.layers, layouts, strict=True)
            if layout is not None
        )
        if len(layers) < len(layouts):
            return plain
        path = plain.path.with_name(plain.path.name.replace("-pack-", _KIND))
        compact = replace(plain, path=path, layers=layers, form=in_twelve_bits)
        return cls(compact, plain, path.with_suffix(_REFUSED))

    @property
    def path(self) -> Path:
        """See `ExpertPack.path`."""
        return self._chosen.path

    @property
    def intact(self) -> bool:
        """See `ExpertPack.intact`."""
        return self._chosen.intact

    def open(self, progress: Progress = SILENT) -> PackedStore:
        """See `ExpertPack.open`."""
        if not self.intact:
            with holding(self.refused):
                self._try(progress)
        self._opened = self._chosen
        return self._opened.open(progress)

    def mend(self, layer: int, expert: int) -> PackedStore:
        """See `ExpertPack.mend`; of the file that was opened.

        Raises:
            DataLoss: as there; an expert of the checkpoint that was packed in twelve bits no longer allows it, too.
        """
        pack = self._opened or self._chosen
        try:
            return pack.mend(layer, expert)
        except NotCompact as error:
            raise DataLoss(
                f"{pack.path}: expert {expert} of layer {pack.layers[layer].number} cannot be mended, {error}: the "
                "checkpoint has changed since it was packed; start again to pack what it is now"
            ) from error

    def _try(self, progress: Progress) -> None:
        """Packs in twelve bits, or writes down that it cannot be done; whoever waited for the lock finds either."""
        if self._chosen is self.plain:
            return
        try:
            self.compact.open(progress)
        except NotCompact as error:
            logger.warning("%s: %s: they are kept as they are", self.compact.title, error)
            self.refused.write_text(_RULE, encoding="utf-8")

    @property
    def _chosen(self) -> ExpertPack:
        return self.plain if _says_so(self.refused) else self.compact


def expandable() -> bool:
    """Whether kernels of this machine expand twelve bits in registers: torch would make plain weights in each step.

    Kernels that nobody has loaded yet count if they can be; nothing is compiled.
    """
    tried = native.install.cache_info().currsize > 0
    return moe.backend("cpu") != REFERENCE or (not tried and obtainable())


def refused(files: ModelFiles) -> bool:
    """Whether packing a model, or some rank's slice of it, has shown that its experts do not allow twelve bits.

    Reads headers, and makes nothing. False of a model that cannot be read.
    """
    try:
        source = open_checkpoint(files)
        key = files_key(source.files)
    except TriptychError:
        return False
    return any(map(_says_so, cache_folder(source.path).glob(f"{key}{_KIND}*{_REFUSED}")))


def _says_so(mark: Path) -> bool:
    """Whether a file refuses twelve bits by the present rule."""
    try:
        return mark.read_text(encoding="utf-8") == _RULE
    except OSError:
        return False
