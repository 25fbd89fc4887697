"""Is this machine, or this cluster, fit to run on: what is there, what is missing, how fast it is."""
