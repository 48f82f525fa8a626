"""Exact search over codes."""
