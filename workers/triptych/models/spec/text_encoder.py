"""A model that turns texts into vectors, as data: an encoder, and what sentence-transformers puts behind it."""

from dataclasses import dataclass
from typing import Literal

from triptych.models.spec.tower import BlocksSpec

Pooling = Literal["cls", "mean", "max", "last"]
DenseActivation = Literal["identity", "tanh"]


@dataclass(frozen=True, slots=True)
class TextEncoderSpec:
    """A post-norm encoder with learnt positions (BERT, arXiv:1810.04805).

    Attributes:
        architecture: Hugging Face's name for it; finds the recipe.
        vocab_size: Rows of the word embedding.
        positions: Rows of the position embedding.
        first_position: Row of a text's first token.
        token_types: Rows of the embedding of token types, of which row 0 is added to every token; 0 for none.
        blocks: Its layers.
    """

    architecture: str
    vocab_size: int
    positions: int
    first_position: int
    token_types: int
    blocks: BlocksSpec

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text, special ones included."""
        return self.positions - self.first_position


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A linear behind the pooling.

    Attributes:
        folder: Of its weights, within the model's.
        inputs: Width of what it reads.
        outputs: Width of what it writes.
        bias: Whether it has one.
        activation: Of its outputs.
    """

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: DenseActivation


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """From a text to one vector (Sentence-BERT, arXiv:1908.10084).

    Attributes:
        encoder: Its transformer.
        pooling: How the rows of a text become one: the first, the last, their mean, or the largest of each column.
        dense: Linears behind the pooling, in order.
        normalise: Whether the vector gets length 1.
        max_tokens: Tokens of the longest text, special ones included.
        lower_case: Whether texts are put in lower case before they are cut into tokens.
    """

    encoder: TextEncoderSpec
    pooling: Pooling
    dense: tuple[DenseSpec, ...]
    normalise: bool
    max_tokens: int
    lower_case: bool

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.dense[-1].outputs if self.dense else self.encoder.blocks.hidden_size
