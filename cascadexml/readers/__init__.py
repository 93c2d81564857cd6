"""Readers: one source format a file, each giving raw records."""
