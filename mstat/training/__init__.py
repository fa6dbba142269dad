"""Training of MSTAT: the objective, the task with its losses, the schedules, the loop, the runs of all splits.

mstat/distributed computes a step on several processes; mstat/data makes the batches.
"""
