"""Clusters: what is started where, what becomes of it, and what is done about it."""
