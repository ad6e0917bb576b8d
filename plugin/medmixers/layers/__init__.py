"""Building blocks below the mixers, chosen once by ``spatial_dims``."""
