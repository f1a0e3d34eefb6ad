"""`triptych models`: which models can be served, and what one of them would take."""
