"""The checks of ``medmixers bundle verify``."""
