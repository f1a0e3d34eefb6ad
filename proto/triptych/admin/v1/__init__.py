"""The contract with operators, version 1; the modules are made by `make proto`."""
