"""The packed experts of a model, and besides them the same experts rounded, where that is allowed."""

from dataclasses import dataclass, replace

from triptych.experts.store import PackedStore, rounded, rounded_layout
from triptych.models.expert_pack import ExpertPack
from triptych.models.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class LossyPack:
    """Two files, made and mended together.

    Attributes:
        exact: As the checkpoint has them.
        rounded: To eight bits (`triptych.experts.store.rounding`).
    """

    exact: ExpertPack
    rounded: ExpertPack

    @classmethod
    def of(cls, exact: ExpertPack) -> "LossyPack":
        """Finds the place of the second file beside the first.

        Raises:
            InvalidArgument: the experts are not of plain numbers.
        """
        layers = tuple(replace(layer, layout=rounded_layout(layer.layout)) for layer in exact.layers)
        path = exact.path.with_name(exact.path.name.replace("-pack-", "-rounded-"))
        title = exact.title.replace("Packing", "Rounding")
        return cls(exact, replace(exact, path=path, title=title, layers=layers, form=rounded))

    def open(self, progress: Progress = SILENT) -> PackedStore:
        """See `ExpertPack.open`."""
        return replace(self.exact.open(progress), rounded=self.rounded.open(progress))

    def mend(self, layer: int, expert: int) -> PackedStore:
        """See `triptych.experts.store.Mend`; whichever of the two it was."""
        return replace(self.exact.mend(layer, expert), rounded=self.rounded.mend(layer, expert))
