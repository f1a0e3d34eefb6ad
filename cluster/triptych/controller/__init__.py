"""The only place that touches Ray: starts or joins a Ray cluster, places the stage actors, restarts dead ones."""
