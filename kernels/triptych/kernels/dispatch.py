"""Ops and the backends that implement them.

An op is one signature. Its torch reference defines what it computes and runs on every device; a faster backend
registers its own function for a device type once it is available there (compiled, or its package imported), and is
then taken for tensors on that device that it accepts.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, Generic, ParamSpec

from torch import Tensor

P = ParamSpec("P")

REFERENCE = "reference"


class NoBackend(Exception):
    """A call would have run the torch reference where only compiled kernels may run."""


class _Strictness(threading.local):
    compiled_only = False


_strictness = _Strictness()


@contextmanager
def compiled_only() -> Iterator[None]:
    """Calls of this thread raise `NoBackend` instead of running a reference."""
    before, _strictness.compiled_only = _strictness.compiled_only, True
    try:
        yield
    finally:
        _strictness.compiled_only = before


def require_shape(out: Tensor, *shape: int) -> None:
    """Raises ValueError for a result of another shape: torch would make room for it wherever the memory ends."""
    if out.shape != shape:
        raise ValueError(f"the result must be {list(shape)}, got {list(out.shape)}")


@dataclass(frozen=True, slots=True)
class Backend(Generic[P]):
    """One implementation of an op.

    Attributes:
        name: As `triptych kernels list` shows it.
        function: Runs it.
        accepts: Whether it takes these arguments; others go to the reference.
    """

    name: str
    function: Callable[Concatenate[Tensor, P], None]
    accepts: Callable[..., bool]


class Op(Generic[P]):
    """A kernel signature; calling it runs the backend chosen for the device of the first tensor.

    Every op writes its results into tensors given by the caller and returns nothing, so that a step can be captured
    once and replayed.
    """

    def __init__(self, reference: Callable[Concatenate[Tensor, P], None]) -> None:
        self._reference = reference
        self._implementations = {REFERENCE: reference}
        self._chosen: dict[str, Backend[P]] = {}
        functools.update_wrapper(self, reference)

    def __call__(self, first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Runs the op."""
        if self.takes(first, *args, **kwargs):
            self._chosen[first.device.type].function(first, *args, **kwargs)
        elif _strictness.compiled_only:
            raise NoBackend(f"{self.name} has no compiled kernel for these arguments")
        else:
            self._reference(first, *args, **kwargs)

    def takes(self, first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether the backend in use accepts these arguments; else the reference runs."""
        backend = self._chosen.get(first.device.type)
        return backend is not None and backend.accepts(first, *args, **kwargs)

    def register(
        self,
        backend: str,
        device: str,
        function: Callable[Concatenate[Tensor, P], None],
        accepts: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:
        """Adds a backend and takes it from now on for tensors on this device type ("cpu", "cuda")."""
        self._implementations[backend] = function
        self._chosen[device] = Backend(backend, function, accepts)

    def implementation(self, backend: str) -> Callable[Concatenate[Tensor, P], None]:
        """The function of one backend; KeyError when it is not registered."""
        return self._implementations[backend]

    def backend(self, device: str) -> str:
        """Name of the backend in use for a device type."""
        chosen = self._chosen.get(device)
        return chosen.name if chosen else REFERENCE

    @property
    def name(self) -> str:
        """Name of the op."""
        return str(getattr(self._reference, "__name__", self._reference))

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the registered backends, the reference first."""
        return tuple(self._implementations)
