"""What of a model's weights the ranks of a worker have in memory of their own: pure."""

from collections.abc import Iterator

from triptych.models.layout import decoder_tensors
from triptych.models.sharding import Columns, cuts
from triptych.models.spec import DecoderSpec
from triptych.parallel import Parallelism


def copied_parameters(spec: DecoderSpec, parallelism: Parallelism) -> int:
    """Elements of all matrices that the ranks of one worker copy, together.

    A slice of rows is mapped from a file, which all processes of a machine share; a slice of columns is copied. Every
    row of ranks has the matrices that all tokens go through, and of the experts its own ones only.
    """
    return sum(count for _, count in _copied(spec, parallelism))


def copied_besides_experts(spec: DecoderSpec, parallelism: Parallelism) -> int:
    """The same of all matrices that are no experts'."""
    return sum(count for name, count in _copied(spec, parallelism) if not _of_expert(name))


def _copied(spec: DecoderSpec, parallelism: Parallelism) -> Iterator[tuple[str, int]]:
    shapes = decoder_tensors(spec)
    for rank in range(parallelism.size):
        for name, cut in cuts(spec, parallelism, rank).items():
            others = _of_expert(name) and rank >= parallelism.tensor  # counted with the first row's
            if isinstance(cut, Columns) and cut.interval.size < shapes[name][1] and not others:
                yield name, shapes[name][0] * cut.interval.size


def _of_expert(name: str) -> bool:
    return ".mlp.experts." in name
