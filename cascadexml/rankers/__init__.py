"""Rankers: whatever gives each text its best labels."""
