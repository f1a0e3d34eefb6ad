"""A GGUF file of the llama architecture, seen as Hugging Face names and plain rows."""

import re
from collections.abc import Mapping
from pathlib import Path

import gguf.quants
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType

from triptych.core.errors import Unimplemented
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import GgufTensor, read_header
from triptych.models.mapping import Extent, map_file

_PLAIN = {
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F32: torch.float32,
}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "rope_freqs.weight": None,  # part of the configuration in Hugging Face form
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class GgufSource:
    """One GGUF file; quantised tensors are dequantised row by row as they are read."""

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        config = config_from_gguf(header)
        self.path = path
        self._heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        named = ((_hugging_face_name(path, name), tensor) for name, tensor in header.tensors.items())
        self._stored = {name: tensor for name, tensor in named if name is not None}
        self._mapped: torch.Tensor | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor of the file."""
        return {name: tensor.shape for name, tensor in self._stored.items()}

    def extent(self, name: str, dtype: torch.dtype) -> Extent | None:
        """Where the tensor lies, if it is stored plainly in `dtype` and in Hugging Face's order of rows."""
        tensor = self._stored[name]
        if _PLAIN.get(tensor.type) != dtype or self._rotated_heads(tensor):
            return None
        extent = Extent(self.path, tensor.offset, tensor.shape, dtype)
        return extent if extent.aligned else None

    def read(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) in float32.

        Raises:
            Unimplemented: packed in a way that the gguf package cannot undo.
        """
        tensor = self._stored[name]
        packed = self._packed_rows(tensor)
        heads = self._rotated_heads(tensor)
        chosen = packed[start:stop] if not heads else packed[_unpermuted(len(packed), heads)[start:stop]]
        try:
            plain = gguf.quants.dequantize(chosen, tensor.type)
        except NotImplementedError:
            raise Unimplemented(
                f"{self.path}: tensor {tensor.name} is packed as {tensor.type.name}, which cannot be unpacked",
                field="model",
            ) from None
        return torch.from_numpy(np.ascontiguousarray(plain, dtype=np.float32)).view(stop - start, *tensor.shape[1:])

    def _packed_rows(self, tensor: GgufTensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        if self._mapped is None:
            self._mapped = map_file(self.path)
        raw = self._mapped[tensor.offset : tensor.offset + tensor.nbytes].numpy()
        return raw.reshape(tensor.shape[0], -1)

    def _rotated_heads(self, tensor: GgufTensor) -> int:
        """Heads whose rows llama.cpp reordered for its rotary embedding; 0 for every other tensor."""
        match = _LAYER_NAME.fullmatch(tensor.name)
        return self._heads.get(match[2], 0) if match else 0


def _unpermuted(rows: int, heads: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """Row r of the Hugging Face matrix is row `result[r]` of llama.cpp's.

    llama.cpp rotates neighbouring pairs, Hugging Face pairs half a head apart; within each head the conversion
    interleaved the halves.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _hugging_face_name(path: Path, name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise Unimplemented(
            f"{path}: tensor {name} is not part of the llama architecture as it is read", field="model"
        )
    return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
