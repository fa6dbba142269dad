"""Mutated inputs of every kind that a stranger may hand over, and what becomes of each: `make fuzz`.

`mutate` changes bytes, texts and JSON values by a seeded generator; `targets` makes a good input of each kind, and
reads a mutated one by the real commands; `cases` does so in child processes with bounds on time and memory.
"""
