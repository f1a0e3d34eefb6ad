"""Names for the content of KV blocks.

The KV of a token depends on every token before it, so a block is named by a hash over its own tokens and the name of
the block before it. Where embeddings stand for tokens, the name of what was embedded goes in as well, and which of
its rows they are; and in blocks where positions are not the indices of the tokens, the positions. The hash is
SHA-256: requests of different users meet in one cache, and nobody may be able to make a second prompt that has the
name of another's (a hash without that property would be 0.4 µs a block faster).
"""

import struct
from array import array
from hashlib import sha256

import numpy as np

from triptych.engine.sequence import Media, Sequence


def full_block_digests(sequence: Sequence, block_size: int, root: bytes) -> list[bytes]:
    """One name per full block of the sequence's tokens; each is worked out once and kept with the sequence.

    Args:
        sequence: Its tokens and media; its digests are extended.
        block_size: Tokens per block.
        root: What the KV depends on besides the tokens; equal for all sequences that may share.
    """
    digests = sequence.digests
    if sequence.adapter:
        root = sha256(root + sequence.adapter.encode()).digest()
    for index in range(len(digests), len(sequence.token_ids) // block_size):
        start = index * block_size
        tokens = array("i", sequence.token_ids[start : start + block_size])
        content = sha256(digests[-1] if digests else root)
        content.update(tokens)
        for media in sequence.media:
            if start < media.start + media.length and media.start < start + block_size:
                content.update(_media_bytes(media, start))
        if sequence.positions is not None:
            axes = sequence.positions.between(start, start + block_size)
            if (axes != np.arange(start, start + block_size)).any():  # else the KV is that of a text without images
                content.update(axes.tobytes())
        digests.append(content.digest())
    return digests


def _media_bytes(media: Media, start: int) -> bytes:
    name = media.content.encode()
    return struct.pack("<qqqq", media.start - start, media.length, media.row, len(name)) + name
