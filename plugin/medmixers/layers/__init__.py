"""Building blocks of mixers and networks; ``spatial_dims`` chooses the class once."""
