"""Commands: parse the command line, compose the settings, call the library."""
