"""Readers of image files: pictures by their own depth, DICOM by its headers. Used by every room that opens an image."""
