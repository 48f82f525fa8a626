"""Samples and datasets: what is read, and what it must be."""
