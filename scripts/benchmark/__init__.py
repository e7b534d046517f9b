"""The benchmark: every workload that runicornfs has a bar for, against its peers, side by side in one run.

`python -m scripts.benchmark` from the top folder; `scripts/bench` installs what it needs first. Nothing here is part of
the test suite, and nothing of it is installed with runicornfs.
"""
