"""What the JSON of a bundle's configs names, and a packed bundle carries: cases, preflight, metrics, saving."""
