"""`mirrorline predict`: the classes of image files."""
