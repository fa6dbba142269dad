"""Reports for people: tables in the terminal, pictures, and the HTML page of one run or several.

Reads the files of a run and computes no score; scores are made in mstat/evaluation.
"""
