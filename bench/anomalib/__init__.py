"""Detectors of anomalib beside aoi's own."""
