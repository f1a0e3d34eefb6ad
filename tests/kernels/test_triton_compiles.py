"""Triton's compiler makes GPU code of every program, which needs no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triptych.kernels.triton import row_programs

ROWS = {"x": "*bf16", "out": "*bf16", "x_stride": "i32", "out_stride": "i32", "width": "i32", "block": "constexpr"}
SUMS = {"places": "*i64", "weights": "*fp32", "place_stride": "i32", "weight_stride": "i32", "top_k": "constexpr"}
BITS = {"scales": "*fp32", "scale_stride": "i32", "fp8": "constexpr"}
PROGRAMS = {
    "gather": (ROWS | {"rows": "*i64"}, {"block": 1024}),
    "add_up": (ROWS | SUMS, {"block": 1024, "top_k": 8}),
    "quantize": (ROWS | BITS | {"out": "*u8", "most": "fp32", "smallest": "fp32"}, {"block": 4096, "fp8": True}),
    "dequantize": (ROWS | BITS | {"values": "*i8", "value_stride": "i32"}, {"block": 1024, "fp8": False}),
}
for name, (types, constants) in PROGRAMS.items():
    program = getattr(row_programs, name)
    signature = {argument: types[argument] for argument in program.arg_names}
    source = ASTSource(fn=program, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    print(name, len(made.asm["cubin"]))
"""


def test_every_program_becomes_code_of_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = plain | {"TRITON_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=280
    )
    assert found.returncode == 0, found.stderr
    names = [line.split()[0] for line in found.stdout.splitlines()]
    assert names == ["gather", "add_up", "quantize", "dequantize"]
