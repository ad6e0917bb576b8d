"""The data of ``scripts/demo.sh``: simulated subjects of one real anatomy."""
