"""The contract with clients, version 1; the modules are made by `make proto`."""
