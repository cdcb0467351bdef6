"""Checkpoints in the layouts of others: read, written, and proved to hold the same weights."""
