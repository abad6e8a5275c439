"""What the lessons stand on: the tiny world, data, training, figures, references. Hand-written; never imports a lesson."""
