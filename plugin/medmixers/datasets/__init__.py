"""Data sets in nnU-Net raw format: what writes them and what checks them. Nothing here imports torch."""
