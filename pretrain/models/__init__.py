"""The models; each file stands alone."""
