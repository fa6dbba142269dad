"""The run folder: its files, checkpoints, logs, and which data set its scores are of.

What is kept on disk while a model is trained belongs here; pages and tables for people are in mstat/report.
"""
