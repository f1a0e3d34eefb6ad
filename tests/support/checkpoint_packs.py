"""The pack of a checkpoint, as a rank has it."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from triptych.models.compact_pack import CompactPack
from triptych.models.expert_pack import ExpertPack
from triptych.models.files import ModelFiles
from triptych.models.layout import decoder_tensors
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT
from triptych.models.quantization import Quantization
from triptych.models.resolve import resolve
from triptych.models.sharding.cuts import cuts
from triptych.models.spec import read_spec
from triptych.models.testing import RecordingProgress
from triptych.parallel import Parallelism

ALONE = Parallelism()


def opened(
    files: ModelFiles,
    dtype: torch.dtype = torch.bfloat16,
    quantization: Quantization = "none",
    grid: Parallelism = ALONE,
    rank: int = 0,
) -> ExpertPack:
    spec = read_spec(files)
    wanted, device = decoder_tensors(spec.decoder), torch.device("cpu")
    parameters = open_parameters(files, spec, wanted, dtype, device, SILENT, quantization)
    return ExpertPack.of(files, spec.decoder, replace(parameters, cuts=cuts(spec.decoder, grid, rank)))


def packed_in(path: str, cache: str) -> tuple[int, bytes]:
    """In a process of its own: how often it packed, and what."""
    os.environ["TRIPTYCH_CACHE"] = cache
    progress = RecordingProgress()
    store = opened(resolve(path)).open(progress)
    return len(progress.tasks), store.path.read_bytes()[-8192:]


def packs(folder: Path) -> list[str]:
    """The forms of experts that are packed there."""
    return sorted(path.name.split("-")[1] for path in folder.rglob("*.experts"))


def compact_of(plain: ExpertPack) -> CompactPack:
    """The same in twelve bits a weight."""
    pack = CompactPack.of(plain)
    assert isinstance(pack, CompactPack)
    return pack
