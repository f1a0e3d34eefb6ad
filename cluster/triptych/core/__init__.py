"""Everything that decides: plain synchronous Python on frozen data, with no clock, socket, thread or random source."""
