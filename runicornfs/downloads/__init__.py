"""Tasks that a person started: they bring the files of a version into a folder, or into the cache alone."""
