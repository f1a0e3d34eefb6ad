"""Who was needed most, remembered beside the packed file, so that a restart begins where the last run ended."""

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from triptych.core.errors import describe
from triptych.experts.store.packed import PackedStore

logger = logging.getLogger(__name__)

_VERSION = 1


@dataclass(frozen=True, slots=True)
class WarmSet:
    """How often each expert was needed.

    Attributes:
        uses: By layer and number in the packed file: the share of the layer's steps that asked for it, in [0, 1].
    """

    uses: tuple[tuple[float, ...], ...]

    def fits(self, experts: Sequence[int]) -> bool:
        """Whether it has a number for every expert of every layer."""
        return [len(layer) for layer in self.uses] == list(experts)


def warm_path(store: PackedStore, rank: int) -> Path:
    """Where a rank remembers it: ranks keep different experts."""
    return store.path.with_name(f"{store.path.name}.rank{rank}.warm")


def read_warm(path: Path, store: PackedStore) -> WarmSet | None:
    """What was written for this packed file; None where there is nothing, or not all of it, or of another file."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest != _digest(body):
            return None
        written = json.loads(body)
        if written["version"] != _VERSION or written["pack"] != identity(store):
            return None
        warm = WarmSet(tuple(tuple(float(share) for share in layer) for layer in written["uses"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return warm if warm.fits([layer.experts for layer in store.layers]) else None


def write_warm(path: Path, store: PackedStore, warm: WarmSet) -> None:
    """Replaces what was there, at once and as a whole: of two that write, one has written last.

    A disk that does not take it costs a cold start, which is no reason to fail.
    """
    uses = [[round(share, 4) for share in layer] for layer in warm.uses]
    body = json.dumps({"version": _VERSION, "pack": identity(store), "uses": uses}).encode()
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_digest(body) + b"\n" + body)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.info("who was needed most is not remembered in %s: %s", path, describe(error))


def identity(store: PackedStore) -> str:
    """Of what a packed file holds: other weights have other checksums."""
    return blake2b(repr(store.sums).encode(), digest_size=16).hexdigest()


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).hexdigest().encode()
