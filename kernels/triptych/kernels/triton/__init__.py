"""Triton kernels for GPUs; in Triton's interpreter (TRITON_INTERPRET=1) they run on CPUs too, slowly.

`install` registers them where the package `triton` can be imported: it comes with a torch that is made for GPUs.
"""

from functools import cache
from importlib.util import find_spec


@cache
def install() -> bool:
    """Makes the kernels the backends of their ops on GPUs; False where there is no Triton."""
    if find_spec("triton") is None:
        return False
    from triptych.kernels.triton import rows

    rows.register("cuda")
    return True
