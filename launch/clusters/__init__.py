"""Where ranks are started: this machine now; hosts, Slurm and Kubernetes beside it later."""
