"""Jobs: scripts for Slurm, Kubernetes and ssh, restarts, status, collection of results.

Nothing here imports torch at the start, and nothing of a training depends on it.
"""
