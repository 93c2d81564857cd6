"""Records, labels and tokens: reading, splitting, the corpus and the token store."""
