"""The two worlds that train: MONAI Bundles and nnU-Net."""
