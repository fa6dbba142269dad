"""The run folder: its files, checkpoints and logs, and the data set that its scores belong to.

This package writes what training keeps on disk. Pages and tables for people are in mstat/report.
"""
