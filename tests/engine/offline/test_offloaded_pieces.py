"""An engine whose experts are read in many pieces, in twelve bits a weight, answers as one that has all in memory."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from tests.support.seeds import drawn_seed
from triptych.engine import Engine, SamplingParams
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.experts.blob import PAGE
from triptych.experts.native import residency as native
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.experts.store import PackedStore, place, write_pack

Open = Callable[..., Engine]
LAYERS, EXPERTS, FIRST, SECOND = 2, 8, 5, 3
"""Pieces of the sections of an expert: 2 · 96 · 64 and 96 · 64 numbers of twelve bits."""
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
    "num_local_experts": EXPERTS, "num_experts_per_tok": 3,
}  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    monkeypatch.setattr("triptych.models.expert_pack.place", partial(place, piece=PAGE))
    monkeypatch.setattr("triptych.models.expert_pack.write_pack", partial(write_pack, piece=PAGE))
    monkeypatch.setattr(native, "_SPLIT", 0)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    seed = drawn_seed()
    torch.manual_seed(seed)
    MixtralForCausalLM(MixtralConfig(**SIZES)).to(torch.bfloat16).save_pretrained(tmp_path / "mixture")
    tokenizer.save_pretrained(tmp_path / "mixture")
    return tmp_path / "mixture"


@pytest.fixture
def asked() -> list[list[int]]:
    return [torch.randint(4, 300, (length,)).tolist() for length in (3, 17, 30)]


def answers(engine: Engine, asked: list[list[int]]) -> list[object]:
    """One after the other, then all together: tokens and the scores that they had."""
    alone = [answer for prompt in asked for answer in engine.generate([prompt], GREEDY)]
    return [(answer.token_ids, answer.logprobs) for answer in (*alone, *engine.generate(asked, GREEDY))]


def damage_a_piece_of_every_expert(store: PackedStore) -> None:
    with store.path.open("r+b") as file:
        for layer in range(LAYERS):
            for expert in range(EXPERTS):
                where = store.offset(layer, expert) + random.randrange(store.blob_bytes)
                file.seek(where)
                (byte,) = file.read(1)
                file.seek(where)
                file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("ranks", "readers"), [({}, 4), ({"expert_parallel": 2}, 1)], ids=["alone, 4 readers", "two ranks, a reader each"]
)
def test_answers_are_those_of_resident_experts(
    ranks: dict[str, int], readers: int, folder: Path, open_engine: Open, asked: list[list[int]]
) -> None:
    with open_engine(folder, dtype="bfloat16", **ranks) as resident:
        expected = answers(resident, asked)
    offload = OffloadSettings(budget=Fraction(0.6), readers=readers, speculation=0.2, warm=False)
    with open_engine(folder, dtype="bfloat16", expert_offload=offload, **ranks) as engine:
        packed, residency = engine.core.decoder._offload, engine.core.decoder.residency
        assert packed is not None
        assert residency is not None
        assert "-compact-" in packed.store.path.name
        assert [len(layer.pieces) for layer in packed.store.layers] == [FIRST + SECOND] * LAYERS
        assert answers(engine, asked) == expected
        assert residency.counts.misses > 0
        assert residency.counts.failed_reads == 0
        damage_a_piece_of_every_expert(packed.store)
        assert answers(engine, asked) == expected
        assert residency.counts.failed_reads > 0
