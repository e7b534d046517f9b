"""`scripts/soak`: readers, changes, faults and restarts at the same time, and the invariants that must survive them."""
