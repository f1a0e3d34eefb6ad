"""Conversion between Hugging Face folders and GGUF files."""
