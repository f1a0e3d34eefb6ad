"""Everything that decides: synchronous Python on frozen data, without clock, socket, thread or random source."""
