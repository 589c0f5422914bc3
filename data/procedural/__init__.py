"""A procedural data set of machined parts, with defects drawn by a process of its own."""
