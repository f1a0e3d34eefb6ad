"""How long ranks wait for each other."""

PATIENCE = 15.0
"""Seconds that a rank may be late for a collective, or with its part of a step. Who is gone or stands still is
noticed sooner; this is for a rank that lives and does something else."""

SILENCE = 8.0
"""Seconds without a word from a rank after which it counts as lost."""
