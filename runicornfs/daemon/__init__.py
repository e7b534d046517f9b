"""Composes everything in one place, runs the control API and the mount, and takes them down in reverse order."""
