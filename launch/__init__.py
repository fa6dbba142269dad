"""Commands: parse, compose, call."""
