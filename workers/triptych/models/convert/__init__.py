"""Conversion between Hugging Face folders and GGUF files."""

from triptych.models.convert.convert import GGUF_KINDS, SAFETENSORS_KINDS, convert

__all__ = ["GGUF_KINDS", "SAFETENSORS_KINDS", "convert"]
