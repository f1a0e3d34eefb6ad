"""Quantised weights through a cluster: prefill and decode workers agree on the order of keys and on their form."""

from pathlib import Path
from typing import Any

import pytest

from triptych.config.load import make_spec
from triptych.controller.local import LocalCluster
from triptych.controller.testing import InProcessRuntime
from triptych.core.errors import InvalidArgument
from triptych.models.resolve import resolve
from triptych.models.testing import RecordingProgress

TOKENS = 4


def test_blocks_of_a_gguf_answer_as_the_offline_engine_does_without_them(
    start: Any, oracle: Any, answers: Any
) -> None:
    model, prompt = resolve("builtin:smollm2").path, "The capital of France is"
    expected = oracle.tokens(model, prompt, TOKENS)
    cluster = start(model, "1P1D", quantization="gguf", kv_cache__memory="16MiB")
    assert answers(cluster, [prompt], TOKENS) == [expected]
    decode, prefill = (cluster.host(f"{role}-0").panel.decoding.stage for role in ("decode", "prefill"))
    assert (prefill.prefilled_tokens > 0, decode.prefilled_tokens) == (True, 0)


def test_weights_are_quantised_once_before_any_worker_starts(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    given = {"model": str(tiny_llava), "layout": "1E1P2D", "router.grpc": "127.0.0.1:0", "kv_cache.memory": "4MiB"}
    spec = make_spec(given | {"dtype": "bfloat16", "quantization": "int8"})
    made: list[set[Path]] = []

    def runtime(address: str | None, cpus: float) -> InProcessRuntime:
        made.append(set(tmp_path.rglob("*.safetensors")))
        return InProcessRuntime()

    progress = RecordingProgress()
    with LocalCluster(spec, progress=progress, make_runtime=runtime):
        made.append(set(tmp_path.rglob("*.safetensors")))
    assert sorted(task.title.rpartition(" ")[2] for task in progress.tasks) == ["BF16", "BF16", "int8"]
    assert made[0] == made[1]
    assert len(made[0]) == 3


def test_blocks_are_refused_where_there_are_none(start: Any, tiny_llama: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"quantization gguf needs a \.gguf file"):
        start(tiny_llama, "1D", quantization="gguf")
