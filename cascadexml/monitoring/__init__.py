"""Batches of later records against what held-out records looked like."""
