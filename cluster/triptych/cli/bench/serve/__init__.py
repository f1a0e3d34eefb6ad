"""`triptych bench serve`: load on a running cluster, and what its clients see of it."""
