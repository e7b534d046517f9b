"""What is known of the store: an SQLite database that readers see one whole snapshot of at a time."""
