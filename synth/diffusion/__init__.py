"""Defects painted by a text-conditioned inpainting model."""
