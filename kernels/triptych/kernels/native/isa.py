"""The instruction sets that the kernels are compiled for, and which of them this machine runs."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Isa:
    """One compilation of every kernel.

    Attributes:
        name: As `triptych kernels` shows it.
        features: What a CPU must have, as gcc's -m options name it; /proc/cpuinfo has underscores in the names.
    """

    name: str
    features: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """The compiler's options."""
        return tuple(f"-m{feature}" for feature in self.features)

    @property
    def missing(self) -> tuple[str, ...]:
        """Features that this machine's CPU lacks."""
        return tuple(feature for feature in self.features if feature not in _cpu_features())


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "avx512vnni")

ISAS = (Isa("avx512", (*_AVX2, *_AVX512)), Isa("avx2", _AVX2), Isa("portable"))
"""Best first; the last runs everywhere."""


def supported() -> tuple[Isa, ...]:
    """Those that this machine runs, best first."""
    return tuple(isa for isa in ISAS if not isa.missing)


def isa(name: str) -> Isa:
    """By name; KeyError when there is none."""
    return {isa.name: isa for isa in ISAS}[name]


@cache
def _cpu_features() -> frozenset[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flag.replace("_", "") for flag in flags.split())
