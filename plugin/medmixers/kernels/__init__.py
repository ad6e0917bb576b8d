"""Fast implementations of the mixers' operations, each with its plain reference."""
