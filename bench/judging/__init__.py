"""Does an arm help? Counts of every arm, intervals, p-values and verdicts."""
