"""What the lessons stand on: tiny world, data, training, figures, references.

Written by hand; never imports a lesson.
"""
