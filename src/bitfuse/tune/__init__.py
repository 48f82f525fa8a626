"""Fine-tuning a backbone on one's own pairs of picture and text; what comes out is an ordinary checkpoint."""
