"""Loads compiled sources, and calls what is in them."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from triptych.kernels.native.compile import NotAvailable, compiled
from triptych.kernels.native.isa import Isa

Args = TypeVar("Args", bound=ctypes.Structure, covariant=True)


@dataclass(frozen=True, slots=True)
class Kernel(Generic[Args]):
    """A compiled kernel: two functions over a struct of arguments (src/kernel.h).

    Attributes:
        name: Of the function pair, without `_run`.
        args: The ctypes mirror of its arguments.
        run: Address of `NAME_run`.
        pieces: Address of `NAME_pieces`.
    """

    name: str
    args: type[Args]
    run: int
    pieces: int


def load_kernel(source: str, name: str, args: type[Args], isa: Isa) -> Kernel[Args]:
    """Kernel `name` of `src/source.cpp`, compiled at first use.

    Args:
        source: Name of the source.
        name: Name of the kernel.
        args: The ctypes mirror of its arguments.
        isa: What to compile for.

    Raises:
        NotAvailable: it cannot be compiled or loaded here.
    """
    library = load(source, isa)

    def address(symbol: str) -> int:
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0

    return Kernel(name, args, address(f"{name}_run"), address(f"{name}_pieces"))


@cache
def load(source: str, isa: Isa) -> ctypes.CDLL:
    """The library made of `src/source.cpp`.

    Raises:
        NotAvailable: it cannot be compiled or loaded here.
    """
    if isa.missing:
        raise NotAvailable(f"this CPU has no {', '.join(isa.missing)}")
    try:
        return ctypes.CDLL(str(compiled(source, isa)))
    except OSError as error:
        raise NotAvailable(f"the compiled {source} cannot be loaded: {error}") from error
