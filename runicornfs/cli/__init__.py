"""The command line: reads what a person typed, calls the workspace or its API, shows the answer."""
