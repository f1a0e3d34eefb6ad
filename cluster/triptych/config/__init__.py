"""The settings of a cluster: their types, their YAML, and what follows from them."""
