"""Bytes: blocks in, blocks out, who fetches what, read-ahead, verification, eviction."""
