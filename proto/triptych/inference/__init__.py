"""The contract with clients."""
