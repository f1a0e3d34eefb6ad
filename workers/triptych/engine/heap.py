"""Memory that has been freed and that the allocator still keeps."""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Returns it to the system, where the C library can (glibc, malloc_trim(3)).

    Opening a model takes tens of megabytes for a moment, most of them for its tokenizer. Room for the largest step,
    most of which nobody ever uses, costs nothing as long as it is not made of them.
    """
    with suppress(OSError, AttributeError, TypeError):  # no such library, no such function
        ctypes.CDLL(None).malloc_trim(0)
