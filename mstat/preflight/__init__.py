"""Launch checks of all nodes before a job trains: facts about each node, a first collective, one table of faults.

Checks of the settings alone belong to mstat/config, checks before a job is queued to mstat/cluster.
"""
