"""This project measured beside itself and its peers, interleaved in one run; not installed."""
