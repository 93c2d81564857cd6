"""Label features and the label tree."""
