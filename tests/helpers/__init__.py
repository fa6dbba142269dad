"""Helpers of several test files: hosts, a Slurm, a browser, processes of one test."""
