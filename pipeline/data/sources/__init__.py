"""Kinds of data sets, one file each."""
