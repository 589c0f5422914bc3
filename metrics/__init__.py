"""Detection metrics on raw scores."""
