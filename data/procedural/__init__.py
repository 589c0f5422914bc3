"""A procedural data set of machined parts, with defects drawn by a process of its own."""

from aoi.data.procedural.dataset import SampleReport, write_sample_dataset

__all__ = ["SampleReport", "write_sample_dataset"]
