"""The packed experts of a model, made of its checkpoint once per host (`triptych.experts.store`)."""

import errno
import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from triptych.core.errors import DataLoss, FailedPrecondition
from triptych.experts.blob import BlobLayout, Expert
from triptych.experts.store import PackedStore, file_bytes, mend_blob, open_store, outdated, place, write_pack
from triptych.models.cache import build_file, files_key, holding, require_space
from triptych.models.checkpoint import open_checkpoint
from triptych.models.conversion import cache_folder, drop_outdated
from triptych.models.expert_tensors import made_of, read_expert, tensor_names
from triptych.models.files import ModelFiles
from triptych.models.parameters import Parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.spec import DecoderSpec, MoeSpec

logger = logging.getLogger(__name__)

_NOTHING_WRONG_WITH_THE_FILE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
)

_FORMER = "-rounded-"
"""What packs that were rounded to eight bits used to be named; nobody opens one."""


def as_it_is(expert: Expert) -> Expert:
    """The form of an expert that loses nothing."""
    return expert


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """A layer that has experts.

    Attributes:
        number: Among all layers of the model.
        experts: How many, on all ranks together.
        layout: Of each in the file.
    """

    number: int
    experts: int
    layout: BlobLayout


@dataclass(frozen=True, slots=True)
class ExpertPack:
    """A rank's slice of every expert of a model, in a file of the cache; ranks that have the same slice share it.

    Attributes:
        path: Where the file is, or will be.
        title: Of the work of making it, for people.
        layers: Those that have experts, in the model's order.
        parameters: What it is made of.
        form: What an expert of the checkpoint is written as.
    """

    path: Path
    title: str
    layers: tuple[ExpertLayer, ...]
    parameters: Parameters
    form: Callable[[Expert], Expert] = as_it_is

    @classmethod
    def of(cls, files: ModelFiles, spec: DecoderSpec, parameters: Parameters) -> "ExpertPack":
        """Finds the place of a model's pack; makes nothing, and reads headers only.

        Args:
            files: The model.
            spec: What it is.
            parameters: The rank's, open and cut.

        Raises:
            FailedPrecondition: the model has no experts.
        """
        on_host = replace(parameters, device=torch.device("cpu"), weights=parameters.weights.passing(0))
        layers = tuple(
            ExpertLayer(number, layer.mlp.num_experts, BlobLayout.of(read_expert(on_host, number, 0)))
            for number, layer in enumerate(spec.layers)
            if isinstance(layer.mlp, MoeSpec)
        )
        if not layers:
            raise FailedPrecondition(f"{files.name} has no experts: leave experts.budget out", field="experts.budget")
        source = open_checkpoint(files)
        every = (made_of(on_host, layer.number, expert) for layer in layers for expert in range(layer.experts))
        content = hashlib.blake2b("\0".join(every).encode(), digest_size=6).hexdigest()
        path = cache_folder(source.path) / f"{files_key(source.files)}-pack-{content}.experts"
        weights = parameters.weights.passing(sys.maxsize)
        pack = cls(path, f"Packing experts of {source.path.name}", layers, replace(on_host, weights=weights))
        for layer in range(len(layers)):  # cut by columns, it has been copied
            pack._let_go(layer, 0)
        return pack

    @property
    def intact(self) -> bool:
        """Whether the file is there and whole, as far as that shows without reading blobs."""
        return self._fault(self.path) is None

    def open(self, progress: Progress = SILENT) -> PackedStore:
        """The file as it is, or newly made where it is not there or not whole.

        Args:
            progress: Told about the making.

        Raises:
            ResourceExhausted: the disk has no room.
            FailedPrecondition: the cache directory cannot be written.
            DataLoss: the checkpoint is gone, or has been cut short.
        """
        if (fault := self._fault(self.path)) and self.path.exists():
            logger.warning("%s: it is made anew", fault)
        build_file(self.path, lambda target: self._build(target, progress), intact=lambda path: not self._fault(path))
        self.parameters.weights.fence(
            name
            for layer in self.layers
            for expert in range(layer.experts)
            for name in tensor_names(self.parameters, layer.number, expert)
        )
        return open_store(self.path)

    def mend(self, layer: int, expert: int) -> PackedStore:
        """See `triptych.experts.store.Mend`.

        Raises:
            ResourceExhausted: the disk has no room; the file stays, with all experts that are whole.
            FailedPrecondition: the cache directory cannot be written; the file stays likewise.
            DataLoss: the checkpoint is gone, has been cut short, or has changed.
        """
        with holding(self.path):
            if self.intact and (store := self._mended(layer, expert)):
                return store
        return self.open()

    def read(self, layer: int, expert: int) -> Expert:
        """An expert as it is written, by the numbers that it has in the file.

        Raises:
            DataLoss: the checkpoint is gone, or has been cut short.
        """
        number = self.layers[layer].number
        for name in tensor_names(self.parameters, number, expert):
            self.parameters.weights.require_there(name)
        return self.form(read_expert(self.parameters, number, expert))

    def _fault(self, path: Path) -> str | None:
        """Why a file is not this pack."""
        try:
            store = open_store(path)
        except DataLoss as error:
            return str(error)
        return None if store.layers == place(self._shape) else f"{path} holds experts of another layout"

    def _mended(self, layer: int, expert: int) -> PackedStore | None:
        """The file with an expert as it was written; None if the disk does not take it there, and all is gone."""
        store = open_store(self.path)
        what = f"{self.path}: expert {expert} of layer {self.layers[layer].number}"
        try:
            if mend_blob(store, layer, expert, self.read):
                logger.warning("%s was damaged, and has been written again", what)
                self._let_go(layer, expert)
        except OSError as error:
            if error.errno in _NOTHING_WRONG_WITH_THE_FILE:
                raise
            logger.warning("%s cannot be written again (%s): all are packed anew", what, error.strerror)
            self.path.unlink(missing_ok=True)
            return None
        return store

    @property
    def _shape(self) -> list[tuple[BlobLayout, int]]:
        return [(layer.layout, layer.experts) for layer in self.layers]

    def _build(self, target: Path, progress: Progress) -> None:
        self.path.unlink(missing_ok=True)  # what is not whole leaves its room to what will be
        drop_outdated(self.path)
        size, unread = file_bytes(self._shape), self._unread()
        require_space(self.path.parent, size - sum(path.stat().st_size for path in unread), self.title)
        for path in unread:
            path.unlink(missing_ok=True)
        with progress.task(self.title, size) as advance:
            write_pack(target, self._shape, self.read, self._let_go, advance)
        for layer, one in enumerate(self.layers):  # with its own pages an expert had some of its neighbours' mapped
            for expert in range(one.experts):
                self._let_go(layer, expert)

    def _unread(self) -> list[Path]:
        """Packs of the same checkpoint, of whichever form, that an earlier version has written."""
        key = self.path.name.split("-")[0]
        packs = self.path.parent.glob(f"{key}-*{self.path.suffix}")
        return [path for path in packs if outdated(path) or path.name.startswith(f"{key}{_FORMER}")]

    def _let_go(self, layer: int, expert: int) -> None:
        for name in tensor_names(self.parameters, self.layers[layer].number, expert):
            self.parameters.weights.let_go(name)
