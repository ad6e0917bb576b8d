"""Comparing networks: what they cost, and how they rank."""
