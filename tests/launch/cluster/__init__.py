"""Tests of the room that starts and watches several workers."""
