"""Class activation, attention, tokens and receptive fields of trained networks, in the geometry of the image."""
