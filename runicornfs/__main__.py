"""`python -m runicornfs`."""

from runicornfs.main import main

main()
