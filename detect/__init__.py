"""Anomaly detectors on frozen features, and inspection with them."""
