"""What a person sees of a run: the progress line, the score table, the figures and the HTML report."""
