"""The contract between router and stage workers."""
