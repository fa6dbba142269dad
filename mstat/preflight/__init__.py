"""Checks of all nodes before a job trains: facts of each node, a first collective, one table of what is wrong.

What can be known without starting processes on other nodes belongs to mstat/config and mstat/cluster.
"""
