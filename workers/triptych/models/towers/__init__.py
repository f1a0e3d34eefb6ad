"""Vision towers: prepared pictures to embedding rows."""
