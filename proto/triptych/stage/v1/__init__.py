"""The contract between router and stage workers, version 1; the modules are made by `make proto`."""
