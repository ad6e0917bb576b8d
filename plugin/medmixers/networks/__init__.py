"""Networks that ``medmixers.create_network`` builds by name."""
