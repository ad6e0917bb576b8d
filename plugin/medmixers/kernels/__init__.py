"""Fast ways to compute what torch's operators compute, each with its plain reference."""
