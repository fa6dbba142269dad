"""The training of MSTAT: the task with its losses, the schedules, the loop, and the runs of all splits.

How processes compute a step is in mstat/distributed, what a batch holds in mstat/data.
"""
