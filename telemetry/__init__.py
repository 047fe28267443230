"""The one contract of metric and log names, and how they leave the process.

Imports nothing of ours, so that every other package may use it.
"""
