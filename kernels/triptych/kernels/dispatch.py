"""Ops and the backends that implement them.

An op is one signature. Its torch reference defines what it computes and runs on every device; a faster backend
registers its own function for a device type once it is available there (compiled, or its package imported), and is
then taken for tensors on that device.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec

from torch import Tensor

P = ParamSpec("P")

REFERENCE = "reference"


class Op(Generic[P]):
    """A kernel signature; calling it runs the backend chosen for the device of the first tensor.

    Every op writes its results into tensors given by the caller and returns nothing, so that a step can be captured
    once and replayed.
    """

    def __init__(self, reference: Callable[Concatenate[Tensor, P], None]) -> None:
        self._reference = reference
        self._implementations = {REFERENCE: reference}
        self._chosen: dict[str, Callable[Concatenate[Tensor, P], None]] = {}
        functools.update_wrapper(self, reference)

    def __call__(self, first: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Runs the op."""
        self._chosen.get(first.device.type, self._reference)(first, *args, **kwargs)

    def register(self, backend: str, device: str, function: Callable[Concatenate[Tensor, P], None]) -> None:
        """Adds a backend and takes it from now on for tensors on this device type ("cpu", "cuda")."""
        self._implementations[backend] = function
        self._chosen[device] = function

    def implementation(self, backend: str) -> Callable[Concatenate[Tensor, P], None]:
        """The function of one backend; KeyError when it is not registered."""
        return self._implementations[backend]

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the registered backends, the reference first."""
        return tuple(self._implementations)
