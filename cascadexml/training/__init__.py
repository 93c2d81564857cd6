"""Training a cascade: loop, optimisers, several processes, checkpoints."""
