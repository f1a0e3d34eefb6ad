"""A text model without weights, whose tokens are bytes."""

from typing import Final

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from triptych.models.spec import DecoderSpec, ModelSpec, NormSpec
from triptych.models.text import TextProcessor
from triptych.router.intake import InputLimits, Intake

VOCABULARY: Final = ("<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()))
"""Token 0 ends an answer; "a" to "z" are neighbours."""

_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def byte_intake(model: str, context_length: int) -> Intake:
    """Checks and tokenizes for such a model.

    Args:
        model: The name it is served under.
        context_length: Tokens of prompt and answer.
    """
    bytewise = Tokenizer(BPE({token: place for place, token in enumerate(VOCABULARY)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([VOCABULARY[0]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise)  # type: ignore[no-untyped-call]
    decoder = DecoderSpec(len(VOCABULARY), 8, (), NormSpec(1e-5), True)
    spec = ModelSpec("LlamaForCausalLM", decoder, None, None, (0,), context_length)
    text = TextProcessor(tokenizer, _TEMPLATE, spec)
    return Intake(model, spec, text, InputLimits(context_length, 2, 1000, 1000))
