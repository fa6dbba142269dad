"""What people look at: tables in the terminal, pictures, and the HTML page of a run or of several.

Reads the files of a run and computes no score; scores are made in mstat/evaluation.
"""
