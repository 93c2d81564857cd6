"""Prefect flows: when things run, what follows from their results; and the services that they need on one machine."""
