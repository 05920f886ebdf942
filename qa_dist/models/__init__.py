"""Heads by name: `model.head: span` is models/span.py. A literal dict, no registry."""
