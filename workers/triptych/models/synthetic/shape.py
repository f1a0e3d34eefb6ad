"""The sizes of a synthetic mixture."""

import re
from dataclasses import dataclass
from typing import Any, Final

from triptych.core.errors import InvalidArgument

CODE: Final = 64
"""Dimensions of a token's code."""
RESERVED: Final = CODE + 1
"""Those that no block writes to: the code, and a constant that biases of routers multiply."""

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)(GB|MB)")
_UNITS: Final = {"GB": 10**9, "MB": 10**6}
_LEAST, _MOST = 10**6, 10**12


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """Of a mixture in Mixtral's form, in bfloat16.

    Attributes:
        layers: Each with experts.
        hidden: Width of the residual stream.
        width: Of an expert.
        experts: Of a layer.
        top_k: Of a token and layer.
        heads: Of attention, with a quarter as many for keys and values.
        vocabulary: Tokens, which is how far the walk goes before it begins anew.
    """

    layers: int
    hidden: int
    width: int
    experts: int
    top_k: int
    heads: int
    vocabulary: int

    @classmethod
    def parse(cls, text: str) -> "SyntheticShape":
        """Of so many bytes of experts, written as 8GB or 4MB.

        Large ones have layers of 64 experts of 6.3 MB, 8 of them per token; small ones, four layers of 16 with 4.

        Raises:
            InvalidArgument: the text is no size, or not between 1 MB and 1 TB.
        """
        found = _SIZE.fullmatch(text)
        size = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not _LEAST <= size <= _MOST:
            raise InvalidArgument(
                f"the size of a synthetic model must be between 1MB and 1000GB, such as 8GB, got {text!r:.40}",
                field="model",
            )
        large = cls(4, 1024, 1024, 64, 8, 16, 8192)
        if size >= large.expert_bytes:
            layers = round(size / (large.expert_bytes / large.layers))
            return cls(layers, large.hidden, large.width, large.experts, large.top_k, large.heads, large.vocabulary)
        small = cls(4, 128, 32, 16, 4, 4, 512)
        width = max(1, round(size / small.expert_bytes)) * small.width
        return cls(small.layers, small.hidden, width, small.experts, small.top_k, small.heads, small.vocabulary)

    @property
    def expert_bytes(self) -> int:
        """Of all experts."""
        return self.layers * self.experts * 3 * self.hidden * self.width * 2

    @property
    def config(self) -> dict[str, Any]:
        """As transformers writes it."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads // 4,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 0,
        }
