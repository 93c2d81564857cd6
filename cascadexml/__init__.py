"""Extreme multi-label text classification with CascadeXML."""
