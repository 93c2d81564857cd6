"""A trained model answers."""
