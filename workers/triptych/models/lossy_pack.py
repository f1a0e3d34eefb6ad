"""The packed experts of a model, and besides them the same experts rounded, where that is allowed."""

from dataclasses import dataclass, replace
from functools import partial

from triptych.experts.settings import Rounding
from triptych.experts.store import PackedStore, rounded, rounded_layout
from triptych.models.expert_pack import ExpertPack
from triptych.models.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class LossyPack:
    """Two files, made and mended together.

    Attributes:
        exact: As the checkpoint has them.
        rounded: To eight bits or four (`triptych.experts.store.rounding`).
    """

    exact: ExpertPack
    rounded: ExpertPack

    @classmethod
    def of(cls, exact: ExpertPack, to: Rounding) -> "LossyPack":
        """Finds the place of the second file beside the first; its name says what it is rounded to.

        Raises:
            InvalidArgument: the experts are not of plain numbers.
        """
        layers = tuple(replace(layer, layout=rounded_layout(layer.layout, to)) for layer in exact.layers)
        path = exact.path.with_name(exact.path.name.replace("-pack-", f"-rounded_{to}-"))
        title = exact.title.replace("Packing", "Rounding")
        form = partial(rounded, to=to)
        return cls(exact, replace(exact, path=path, title=title, layers=layers, form=form))

    def open(self, progress: Progress = SILENT) -> PackedStore:
        """See `ExpertPack.open`."""
        return replace(self.exact.open(progress), rounded=self.rounded.open(progress))

    def mend(self, layer: int, expert: int) -> PackedStore:
        """See `triptych.experts.store.Mend`; whichever of the two it was."""
        return replace(self.exact.mend(layer, expert), rounded=self.rounded.mend(layer, expert))
