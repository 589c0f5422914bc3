"""What an ablation works on: real images, invented defects, and the guard between them."""
