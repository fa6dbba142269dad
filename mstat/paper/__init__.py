"""The experiments of the paper as data, and the tables that our runs of them give.

No method of the paper is implemented here: docs/paper.md says where each equation is.
"""
