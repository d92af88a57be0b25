"""Replacing private data by typed placeholders."""
