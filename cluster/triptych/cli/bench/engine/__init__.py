"""`triptych bench engine`: fixed workloads on the offline engine, each beside its measured ceiling."""
