"""Invented defects on good images."""
