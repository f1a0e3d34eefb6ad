"""Where a checkpoint keeps one of our tensors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the checkpoint, and which part of it is ours.

    Its rows are taken apart in this order: `stacked`, `transposed`, `of`, `every`.

    Attributes:
        name: Of the checkpoint's tensor without the ending; {0}, {1}, … are the numbers in our name.
        of: Our tensors whose rows it holds one after the other, by the last part of their names, ours among them; the
            number of rows of each is that of its own shape. Empty: the whole is ours.
        stacked: Its first dimension counts experts; ours is the one with the last number in our name.
        transposed: It is stored as [inputs, outputs].
        first: The first row of ours.
        every: Ours is one of so many rows from there on.
        weight: What follows the name in the checkpoint where ours ends in .weight.
        bias: The same for .bias.
    """

    name: str
    of: tuple[str, ...] = ()
    stacked: bool = False
    transposed: bool = False
    first: int = 0
    every: int = 1
    weight: str = ".weight"
    bias: str = ".bias"
