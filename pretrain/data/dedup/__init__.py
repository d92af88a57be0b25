"""Duplicates: exact ones, near ones, and the clusters that they form."""
