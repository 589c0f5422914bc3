"""Samples, data sets and the layouts on disk."""
