"""What several test files use: hosts, a Slurm, a browser, processes of one test."""
