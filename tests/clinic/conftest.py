import sys
from pathlib import Path

HERE = Path(__file__).parent
# clinic_series, dicom_files, small_bundle, trained_models
sys.path[:0] = [str(HERE), *(str(HERE.parent / room) for room in ("images", "bundles", "datasets", "nnunet"))]
