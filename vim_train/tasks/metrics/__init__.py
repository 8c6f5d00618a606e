"""What predictions are worth: pure functions of logits, labels and names."""
