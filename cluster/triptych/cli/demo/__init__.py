"""`triptych demo`: the whole system on this machine, shown and measured."""
