"""Features, fitted detectors and scores kept for the next run, and shared by several processes."""
