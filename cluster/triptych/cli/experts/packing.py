"""Makes and verifies the pack of a model for `triptych experts pack`."""

import time

import torch

from triptych.cli.experts.pack import Packed
from triptych.engine.dtypes import choose_dtype
from triptych.experts.store import PackedStore, faults
from triptych.models.compact_pack import CompactPack, expandable
from triptych.models.config import read_config
from triptych.models.expert_pack import ExpertPack
from triptych.models.layout import decoder_tensors
from triptych.models.parameters import open_parameters
from triptych.models.progress import Progress
from triptych.models.quantization import choose_quantization
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec


def packed_by(
    model: str, dtype: str, quantization: str, progress: Progress, *, compact: bool = True, verify: bool = False
) -> Packed:
    """Makes a pack where there is none, and reads all of it if asked to.

    Args:
        model: A folder, a .gguf file, a hub id or builtin:NAME.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        progress: Told about all that takes long.
        compact: Whether bfloat16 is packed in twelve bits a weight, as CPUs with compiled kernels read it.
        verify: Whether every blob is read, and written again where it is not as it was written.

    Raises:
        TriptychError: the model cannot be read, has no experts, or the disk has no room.
    """
    plain = _pack_of(model, dtype, quantization, progress)
    pack = CompactPack.of(plain) if compact and expandable() else plain
    before, start = pack.intact, time.monotonic()
    store = pack.open(progress)
    mended = _mend(pack, store, progress) if verify else None
    return Packed(
        path=str(store.path),
        layers=len(store.layers),
        experts=sum(layer.experts for layer in store.layers),
        bytes=store.nbytes,
        file_bytes=store.path.stat().st_size,
        built=not before,
        mended=mended,
        seconds=time.monotonic() - start,
    )


def _pack_of(model: str, dtype: str, quantization: str, progress: Progress) -> ExpertPack:
    files = resolve(model, progress=progress)
    spec, form = read_spec(files), choose_quantization(quantization, files)
    chosen, wanted = choose_dtype(dtype, read_config(files)), decoder_tensors(spec.decoder)
    parameters = open_parameters(files, spec, wanted, chosen, torch.device("cpu"), progress, form)
    return ExpertPack.of(files, spec.decoder, parameters)


def _mend(pack: ExpertPack | CompactPack, store: PackedStore, progress: Progress) -> int:
    with progress.task("Verifying experts", store.nbytes) as advance:
        damaged = list(faults(store, advance))
    for layer, expert in damaged:
        pack.mend(layer, expert)
    return len(damaged)
