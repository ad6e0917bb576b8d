"""The nnU-Net v2 side: networks named in plans, trainers that the stock commands find."""
