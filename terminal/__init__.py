"""What the command line shows: progress bars, reports, errors, and groups with a default verb."""
