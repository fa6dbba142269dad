"""Jobs: scripts for Slurm, Kubernetes and ssh, restarts, status, collection of results.

Importing it loads no torch, and training does not depend on it.
"""
