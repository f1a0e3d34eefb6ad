"""The gRPC front door: checks and tokenizes a request, has the core plan it, and talks to the stage workers."""
