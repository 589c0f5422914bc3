"""Exported detectors without torch: what runs on the line."""
