"""A page for the clinician: an image, what a model found in it, and how far to trust that."""
