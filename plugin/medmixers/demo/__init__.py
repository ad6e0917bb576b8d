"""The demo of ``scripts/demo.sh``: simulated subjects, pictures of a case, and the report."""
