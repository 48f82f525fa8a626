"""From inputs to features: extraction, cached and resumable."""
