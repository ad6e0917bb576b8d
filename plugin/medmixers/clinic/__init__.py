"""From a DICOM series to a DICOM SEG: the way of an image through a hospital."""
