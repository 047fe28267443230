"""Tests: real things at real seams; each states its promise in one sentence."""
