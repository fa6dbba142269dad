"""Search for the persons of query tracklets among the features of a set.

`mstat.search.gallery` has the exact search of features on disk.
"""
