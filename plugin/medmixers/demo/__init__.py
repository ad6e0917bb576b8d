"""The demo of ``scripts/demo.sh``: simulated subjects, one picture per case, and the report."""
