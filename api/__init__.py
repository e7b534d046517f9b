"""The control API: JSON over HTTP, the package `runicornfs.api` (a symlink there leads here)."""
