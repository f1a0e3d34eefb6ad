"""Experts of a mixture that do not all fit: a packed file, a pool of slots in memory, and what decides who is in it.

Knows weights and files, nothing of models: `triptych.models` gives it experts and asks for them by layer and number.
"""
