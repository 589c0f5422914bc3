"""What a sentence asks for: defect specifications and the names of places."""
