"""MONAI Bundles: which there are, their text, and what their configs call. Nothing here imports torch."""
