"""The version of this product."""
__version__ = "0.1.0"
