"""Texts to vectors: transformer encoders and sentence-transformers' pipeline behind them."""
