"""Measurements. `make bench` prints the table of the README, as text and as JSON."""
