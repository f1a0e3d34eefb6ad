"""The router's one clock."""

import time

now = time.monotonic
"""Monotonic seconds."""
