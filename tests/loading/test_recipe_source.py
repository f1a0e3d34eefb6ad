"""A checkpoint seen by our names: parts of fused tensors, experts of stacks, shards, and what is amiss."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.core.errors import DataLoss
from triptych.models.checkpoint import open_checkpoint
from triptych.models.claims import refuse_unused
from triptych.models.files import ModelFiles
from triptych.models.recipe_source import RecipeSource
from triptych.models.recipes import Recipe
from triptych.models.recipes.llama import read_llama
from triptych.models.recipes.place import Place
from triptych.models.testing import RecordingProgress
from triptych.models.weights import Weights, open_weights

Folder = Callable[..., ModelFiles]
FUSED = ("query", "key", "value")


def recipe(names: Mapping[str, str | Place], **rest: object) -> Recipe:
    return Recipe(read=read_llama, names=names, **rest)  # type: ignore[arg-type]


def random(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def opened(files: ModelFiles, recipe: Recipe, wanted: Mapping[str, tuple[int, ...]], **options: object) -> Weights:
    source = RecipeSource(open_checkpoint(files), recipe, wanted)
    return open_weights(source, torch.float32, **options)  # type: ignore[arg-type]


def fused(place: Place) -> Recipe:
    return recipe({f"layers.{{}}.attention.{name}": place for name in FUSED})


FUSED_WANTED = {
    f"layers.1.attention.{name}.{ending}": (rows, 8) if ending == "weight" else (rows,)
    for name, rows in zip(FUSED, (6, 2, 3), strict=True)
    for ending in ("weight", "bias")
}


def test_rows_of_a_fused_projection_are_used_where_they_lie(
    folder: Folder, rng: np.random.Generator, cache: Path
) -> None:
    tensors = {"h.1.qkv.weight": random(rng, 11, 8), "h.1.qkv.bias": random(rng, 11)}
    files = folder({"model.safetensors": tensors})
    weights = opened(files, fused(Place("h.{0}.qkv", of=FUSED)), FUSED_WANTED)
    assert weights.files == {files.path / "model.safetensors"}
    first = 0
    for name, rows in zip(FUSED, (6, 2, 3), strict=True):
        for ending in ("weight", "bias"):
            expected = tensors[f"h.1.qkv.{ending}"][first : first + rows]
            assert torch.equal(weights.tensor(f"layers.1.attention.{name}.{ending}"), expected)
        first += rows


def test_fused_rows_are_quantised_and_converted_like_whole_tensors(
    folder: Folder, rng: np.random.Generator, cache: Path
) -> None:
    whole = {"h.1.qkv.weight": random(rng, 11, 8).double(), "h.1.qkv.bias": random(rng, 11).double()}
    split = {
        f"layers.1.attention.{name}.{ending}": whole[f"h.1.qkv.{ending}"][first : first + rows].clone()
        for name, first, rows in zip(FUSED, (0, 6, 8), (6, 2, 3), strict=True)
        for ending in ("weight", "bias")
    }
    place = fused(Place("h.{0}.qkv", of=FUSED))
    for quantization in ("none", "int8"):
        ours = opened(folder({"model.safetensors": whole}, f"fused-{quantization}"), place, FUSED_WANTED)
        theirs = open_weights(
            open_checkpoint(folder({"model.safetensors": split}, f"split-{quantization}")), torch.float32
        )
        assert all(torch.equal(ours.tensor(name), theirs.tensor(name)) for name in split)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_of_a_stack(
    folder: Folder,
    rng: np.random.Generator,
    cache: Path,
    transposed: bool,
    interleaved: bool,
    dtype: torch.dtype,
) -> None:
    experts, inner, hidden = 5, 6, 4
    gate, up = (random(rng, experts, inner, hidden).to(dtype) for _ in range(2))
    bias = random(rng, experts, 2 * inner).to(dtype)
    both = torch.stack((gate, up), 2).flatten(1, 2) if interleaved else torch.cat((gate, up), 1)
    stored = both.transpose(1, 2).contiguous() if transposed else both
    files = folder({"model.safetensors": {"h.3.experts.gate_up": stored, "h.3.experts.gate_up_bias": bias}})
    common = {"stacked": True, "transposed": transposed, "weight": "", "bias": "_bias"}
    places = (
        [Place("h.{0}.experts.gate_up", first=n, every=2, **common) for n in (0, 1)]  # type: ignore[arg-type]
        if interleaved
        else [Place("h.{0}.experts.gate_up", of=("gate", "up"), **common)] * 2  # type: ignore[arg-type]
    )
    names = {f"layers.{{}}.experts.{{}}.{name}": place for name, place in zip(("gate", "up"), places, strict=True)}
    wanted: dict[str, tuple[int, ...]] = {}
    for expert in range(experts):
        for name in ("gate", "up"):
            wanted |= {
                f"layers.3.experts.{expert}.{name}.weight": (inner, hidden),
                f"layers.3.experts.{expert}.{name}.bias": (inner,),
            }
    weights = opened(files, recipe(names), wanted)
    direct = not transposed and not interleaved and dtype == torch.float32
    assert (weights.files == {files.path / "model.safetensors"}) == direct
    for expert in range(experts):
        biases = bias[expert].view(inner, 2).T if interleaved else bias[expert].view(2, inner)
        for number, (name, matrix) in enumerate((("gate", gate), ("up", up))):
            found = weights.tensor(f"layers.3.experts.{expert}.{name}.weight")
            assert torch.equal(found, matrix[expert].float())
            assert torch.equal(weights.tensor(f"layers.3.experts.{expert}.{name}.bias"), biases[number].float())


def test_rows_are_the_same_read_one_by_one(folder: Folder, rng: np.random.Generator) -> None:
    files = folder({"model.safetensors": {"m.w": random(rng, 7, 10).bfloat16()}})
    for every, first in ((1, 0), (5, 2)):
        place = Place("m", first=first, every=every, transposed=True, weight=".w")
        source = RecipeSource(open_checkpoint(files), recipe({"x": place}), {"x.weight": (10 // every, 7)})
        whole = source.read("x.weight", 0, 10 // every)
        pieces = [source.read("x.weight", row, row + 1) for row in range(10 // every)]
        assert np.array_equal(np.concatenate(pieces), whole)


def test_shards_without_a_wanted_tensor_are_not_opened(folder: Folder, cache: Path) -> None:
    files = folder({"eye.safetensors": {"v.a.weight": torch.ones(2)}, "text.safetensors": {"l.a": torch.ones(3)}})
    (files.path / "text.safetensors").write_bytes(b"damaged, and nobody minds")
    weights = opened(files, recipe({"eye": "v.a"}), {"eye.weight": (2,)})
    assert weights.tensor("eye.weight").tolist() == [1, 1]


def test_only_wanted_tensors_are_converted_with_one_bar_for_all_shards(
    folder: Folder, cache: Path, progress: RecordingProgress
) -> None:
    halves = torch.ones(50, dtype=torch.float16)
    shards = {f"{n}.safetensors": {f"h.{n}.weight": halves, f"other.{n}": torch.ones(1000)} for n in range(3)}
    files = folder(shards)
    for _ in range(2):
        opened(files, recipe({"h.{}": "h.{0}"}), {f"h.{n}.weight": (50,) for n in range(3)}, progress=progress)
    (task,) = progress.tasks
    assert (task.title, task.total, task.done) == ("Converting model to F32", 600, 600)


def test_other_spellings_are_tried_and_all_named(folder: Folder, cache: Path) -> None:
    names = recipe({"norm": "model.norm"}, roots={"model.": ("model.text.", "text.model.")})
    files = folder({"model.safetensors": {"text.model.norm.weight": torch.ones(3)}})
    assert opened(files, names, {"norm.weight": (3,)}).names == {"norm.weight"}
    files = folder({"model.safetensors": {"model.norm.weight": torch.ones(3)}}, "other")
    with pytest.raises(
        DataLoss, match=r"has no tensor model\.text\.norm\.weight or text\.model\.norm\.weight; expected shape \[3\]"
    ):
        opened(files, names, {"norm.weight": (3,)})


@pytest.mark.parametrize(
    ("place", "wanted", "said"),
    [
        (Place("w"), (4, 3), r"model\.safetensors: tensor w\.weight must have shape \[4, 3\], found \[3, 4\]"),
        (Place("w", of=("x", "x")), (3, 4), r"must have shape \[6, 4\], found \[3, 4\]"),
        (Place("w", transposed=True), (3, 4), r"must have shape \[4, 3\], found \[3, 4\]"),
        (Place("w", stacked=True), (3, 4), r"must have shape \[1, 3, 4\], found \[3, 4\]"),
        (Place("w", every=2), (3, 4), r"must have shape \[6, 4\], found \[3, 4\]"),
    ],
)
def test_a_wrong_shape_is_found_before_anything_is_converted(
    folder: Folder, cache: Path, place: Place, wanted: tuple[int, ...], said: str
) -> None:
    files = folder({"model.safetensors": {"w.weight": torch.ones(3, 4).half(), "a.weight": torch.ones(2).half()}})
    with pytest.raises(DataLoss, match=said):
        opened(files, recipe({"a": "a", "l.{}.x": place}), {"a.weight": (2,), "l.0.x.weight": wanted})
    assert not cache.exists()


def test_a_tensor_that_nothing_asks_for_is_named(folder: Folder) -> None:
    files = folder(
        {
            "1.safetensors": {"h.0.weight": torch.ones(1), "h.0.rotary_emb.inv_freq": torch.ones(1)},
            "2.safetensors": {"h.1.weight": torch.ones(1), "k.1.weight": torch.ones(1), "old.x": torch.ones(1)},
        }
    )
    (files.path / "2.safetensors").write_bytes(b"not even opened")
    names = recipe({"h.{}": "h.{0}", "k.{}": "k.{0}"}, ignored=("old.*",))
    source = open_checkpoint(files)
    refuse_unused(source, names, ["h.0.weight", "h.1.weight", "k.1.weight"])
    said = (
        r"2\.safetensors: tensor h\.1\.weight is unused: config\.json calls for no such tensor \(nor for 1 others\)"
    )
    with pytest.raises(DataLoss, match=said):
        refuse_unused(source, names, ["h.0.weight"])
