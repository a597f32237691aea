"""Moves a batch of patients through time: the fast engine, the reference solver, and the interface they share."""
