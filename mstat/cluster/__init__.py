"""Jobs: scripts for Slurm, Kubernetes and ssh, restarts, status, and collection of results.

The package imports no torch, and training does not import the package.
"""
