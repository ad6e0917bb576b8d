import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "bundles"), str(HERE.parent / "datasets")]  # bundle_helpers, tiny_datasets
