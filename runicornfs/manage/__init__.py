"""Changes a store: deletes and restores versions, moves aliases, changes tags."""
