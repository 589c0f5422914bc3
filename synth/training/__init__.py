"""Training of inpainting models on captioned defects."""
