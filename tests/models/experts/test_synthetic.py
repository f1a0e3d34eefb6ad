"""The synthetic mixture: its folder, a greedy answer that counts on, and routes that are those of a walk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.seeds import drawn_seed
from triptych.core.errors import InvalidArgument
from triptych.engine import Engine, SamplingParams
from triptych.models.synthetic import SyntheticShape, synthetic
from triptych.models.synthetic.shape import CODE, RESERVED
from triptych.models.synthetic.walk import Walk, draw_router


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return synthetic("2MB", seed=drawn_seed(31))


@pytest.mark.parametrize(
    ("text", "layers", "experts", "gigabytes"),
    [("8GB", 20, 64, 8.05), ("1.7GB", 4, 64, 1.61), ("4MB", 4, 16, 0.0047)],
)
def test_a_size_is_about_what_was_asked_for(text: str, layers: int, experts: int, gigabytes: float) -> None:
    shape = SyntheticShape.parse(text)
    assert (shape.layers, shape.experts) == (layers, experts)
    assert shape.expert_bytes == pytest.approx(gigabytes * 1e9, rel=0.01)


@pytest.mark.parametrize("text", ["8", "8 GB", "1KB", "2000GB", "-1GB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="between 1MB and 1000GB"):
        SyntheticShape.parse(text)


def test_greedy_answers_count_on_and_say_what_experts_computed(folder: Path) -> None:
    shape = SyntheticShape.parse("2MB")
    engine = Engine(str(folder), kv_cache_memory=1 << 24, threads=1)
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=1)
    starts = torch.randperm(shape.vocabulary)[:3].tolist()
    print(f"the walks begin at {starts}")
    prompts = [[(start + step) % shape.vocabulary for step in range(9)] for start in starts]
    answers = engine.generate(prompts, params)
    for start, answer in zip(starts, answers, strict=True):
        assert answer.token_ids == tuple((start + 9 + step) % shape.vocabulary for step in range(40))
    assert len({entry.logprob for answer in answers for entry in answer.logprobs or ()}) > 60


def test_no_block_writes_to_the_dimensions_that_routers_read(folder: Path) -> None:
    shards = sorted(folder.glob("layer-*.safetensors"))
    assert len(shards) == SyntheticShape.parse("2MB").layers
    for shard in shards:
        for name, weight in load_file(shard).items():
            if name.endswith(("o_proj.weight", "w2.weight")):
                assert not weight[:RESERVED].any()
                assert weight[RESERVED:].float().std() > 0
            if name.endswith("gate.weight"):
                assert not weight[:, RESERVED:].any()


def test_experts_differ(folder: Path) -> None:
    layer = load_file(folder / "layer-000.safetensors")
    first = {name: tuple(weight[-1, :8].tolist()) for name, weight in layer.items() if ".experts." in name}
    assert len(set(first.values())) == len(first)


def test_the_large_model_routes_as_the_builtin_one_does_on_text() -> None:
    """8 of 64 experts: a token shares 0.73 with the one before, 0.69 with the 32nd before; 16 ranks fall as ^-1.1."""
    random = torch.Generator().manual_seed(drawn_seed(31))
    codes = torch.cat((Walk.draw(4096, random).codes, torch.ones(4096, 1)), dim=1)
    near, far, slopes = [], [], []
    for _ in range(12):
        chosen = torch.zeros(4096, 64)
        chosen.scatter_(1, (codes @ draw_router(64, random).T).topk(8).indices, 1.0)
        near.append((chosen[1:] * chosen[:-1]).sum(dim=1).mean() / 8)
        far.append((chosen[32:] * chosen[:-32]).sum(dim=1).mean() / 8)
        popularity = chosen.sum(dim=0).sort(descending=True).values[:16]
        ranks = torch.arange(1.0, 17).log()
        slopes.append(torch.linalg.lstsq(torch.stack((ranks, torch.ones(16)), 1), popularity.log()).solution[0])
    assert float(torch.stack(near).mean()) == pytest.approx(0.73, abs=0.03)
    assert float(torch.stack(far).mean()) == pytest.approx(0.69, abs=0.03)
    assert float(torch.stack(slopes).mean()) == pytest.approx(-1.1, abs=0.2)
    assert codes[:, :CODE].norm(dim=1).sub(1).abs().max() < 1e-5
