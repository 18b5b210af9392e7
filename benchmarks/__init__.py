"""This project compared with itself and its peers, interleaved in one run; not installed."""
