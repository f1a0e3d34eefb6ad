"""The three panels."""

import enum


class Stage(enum.StrEnum):
    """What a worker can be for."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
