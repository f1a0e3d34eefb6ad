"""The contract with operators."""
