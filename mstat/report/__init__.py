"""Reports: tables in the terminal, pictures, and the HTML page of one run or several.

The modules read the files of a run. mstat/evaluation computes all scores.
"""
