"""What invented defects may do to a detector, one rule in each module."""
