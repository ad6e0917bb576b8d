"""Whole networks, each of them reachable by name through ``medmixers.create_network``."""
