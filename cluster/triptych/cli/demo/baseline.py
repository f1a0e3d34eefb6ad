"""transformers' own `generate` on the model that the cluster serves, in a process of its own.

Run as a module: prints one JSON line with its decode rate.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 64


def transformers_decode_rate(folder: Path, threads: int) -> float:
    """Tokens per second of one greedy stream, prefill excluded; the median of three after a warm-up.

    Args:
        folder: A LLaVA checkpoint in Hugging Face layout.
        threads: Threads of the computation.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder), str(threads)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["tok_s"])


def _measure(folder: str, threads: int) -> float:
    import torch
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    torch.set_num_threads(threads)
    # transformers types `self` of generate as a protocol that its own models do not satisfy.
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    inputs = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")

    def seconds(tokens: int) -> float:
        begun = time.perf_counter()
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - begun

    seconds(4)
    rates = sorted((TOKENS - 1) / (seconds(TOKENS) - seconds(1)) for _ in range(3))
    return rates[1]


if __name__ == "__main__":
    print(json.dumps({"tok_s": _measure(sys.argv[1], int(sys.argv[2]))}))
