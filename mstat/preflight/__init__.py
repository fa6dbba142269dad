"""Launch checks of all nodes before a job trains: facts about each node, a first collective, one table of faults.

Checks that need no process on another node belong to mstat/config and mstat/cluster.
"""
