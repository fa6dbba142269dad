"""The run folder: its files, checkpoints and logs, and the data set and settings that its scores depend on.

This package writes the files that training keeps on disk. Reports and tables are in mstat/report.
"""
