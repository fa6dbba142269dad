"""Jobs: scripts for Slurm, Kubernetes and ssh, restarts, status, and collection of results.

Its modules load without torch, so that commands answer at once. Training does not import the package.
"""
