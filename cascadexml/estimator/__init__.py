"""Training without DVC, Prefect or files of settings: from records in memory, or in one folder, to an artifact."""
