"""Protocols, runs and reports: how codes are judged."""
