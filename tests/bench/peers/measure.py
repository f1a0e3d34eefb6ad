"""Measures one peer with the workloads of `triptych bench engine`; prints lines of the same form.

Run with that peer's interpreter (setup.sh makes it): measure.py PEER MODEL [options]. vllm and hf read a Hugging Face
folder, openvino and llamacpp a .gguf file.
"""

import argparse
import json
import os
import runpy
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = runpy.run_path(str(REPOSITORY / "cluster" / "triptych" / "cli" / "bench" / "words.py"))["text"]

Generate = Callable[[list[str], int], int]
"""Answers all prompts with so many tokens each, greedily; returns the tokens made."""


def main() -> None:
    """Loads the peer, warms it up, and measures each workload three times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("peer", choices=PEERS)
    options.add_argument("model")
    options.add_argument("--batches", default="1,8,32")
    for name, default in (("prompt", 32), ("out", 128), ("prefill", 1500), ("threads", 2)):
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()
    begun = time.perf_counter()
    generate = PEERS[given.peer](given.model, given.threads)
    say(given.peer, what="load", seconds=round(time.perf_counter() - begun, 3))
    salts = count(1)
    generate(prompts(1, given.prompt, salts), 8)
    for batch in map(int, given.batches.split(",")):
        rate = median_rate(lambda texts: generate(texts, given.out), batch, given.prompt, salts)
        say(given.peer, what="decode", batch=batch, tok_s=rate)
    rate = median_rate(lambda texts: generate(texts, 1) and given.prefill, 1, given.prefill, salts)
    say(given.peer, what="prefill", tokens=given.prefill, tok_s=rate)


def median_rate(run: Callable[[list[str]], int], batch: int, tokens: int, salts: Iterator[int]) -> float:
    """Tokens that `run` counts per second: the median of three, each with fresh prompts."""
    rates = []
    for _ in range(3):
        texts = prompts(batch, tokens, salts)
        begun = time.perf_counter()
        counted = run(texts)
        rates.append(counted / (time.perf_counter() - begun))
    return round(statistics.median(rates), 1)


def prompts(number: int, tokens: int, salts: Iterator[int]) -> list[str]:
    """Texts that no prefix cache has seen."""
    return [TEXT(tokens, salt) for salt in islice(salts, number)]


def say(peer: str, **fields: str | int | float) -> None:
    """Prints one line."""
    print(json.dumps({"peer": peer, **fields}), flush=True)


def vllm(model: str, threads: int) -> Generate:
    """vLLM, bound to as many cores as it has threads: by itself it keeps one core free."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    from vllm import LLM, SamplingParams

    engine = LLM(model, dtype="bfloat16", max_model_len=4096, max_num_seqs=64)

    def generate(texts: list[str], out: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=out, ignore_eos=True)
        return sum(len(answer.outputs[0].token_ids) for answer in engine.generate(texts, params, use_tqdm=False))

    return generate


def hf(model: str, threads: int) -> Generate:
    """transformers' own `generate`, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def generate(texts: list[str], out: int) -> int:
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        rows = network.generate(**inputs, max_new_tokens=out, min_new_tokens=out, do_sample=False)
        return int((rows.shape[1] - inputs.input_ids.shape[1]) * len(texts))

    return generate


def openvino(model: str, threads: int) -> Generate:
    """OpenVINO GenAI, which reads GGUF and computes with int8 activations."""
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(texts: list[str], out: int) -> int:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.apply_chat_template = out, True, False
        pipeline.generate(texts, config)
        return out * len(texts)

    return generate


def llamacpp(model: str, threads: int) -> Generate:
    """llama.cpp, whose Python binding decodes one sequence at a time."""
    from llama_cpp import Llama

    engine = Llama(model, n_ctx=4096, n_threads=threads, n_threads_batch=threads, n_batch=2048, verbose=False)

    def generate(texts: list[str], out: int) -> int:
        (text,) = texts
        engine.reset()
        return sum(1 for _ in islice(engine.generate(engine.tokenize(text.encode()), temp=0.0), out))

    return generate


PEERS: dict[str, Callable[[str, int], Generate]] = {
    "vllm": vllm,
    "hf": hf,
    "openvino": openvino,
    "llamacpp": llamacpp,
}

if __name__ == "__main__":
    main()
