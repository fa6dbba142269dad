"""Experiments of the paper as data, and the tables that compare our runs with the paper.

This package implements no method of the paper: docs/paper.md lists the file of each equation.
"""
