"""Experiments of the paper as data, and the tables of our runs of them.

This package implements no method of the paper: docs/paper.md lists the file of each equation.
"""
