"""`triptych bench`: how fast the engine is beside what the machine allows, and what a running cluster stands."""
