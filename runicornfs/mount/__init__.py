"""The store as a folder: FUSE operations over the catalog and the contents, and the life of a mount."""
