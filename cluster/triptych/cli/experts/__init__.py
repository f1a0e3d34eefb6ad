"""`triptych experts`: their balance among ranks, and keeping more of them than fit."""
