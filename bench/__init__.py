"""The ablation: what invented defects do to a detector."""
