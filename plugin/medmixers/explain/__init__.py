"""Token attention of trained networks, in the geometry of the image."""
