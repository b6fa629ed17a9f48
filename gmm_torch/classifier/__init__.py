"""What a classifier takes and gives: inputs of any kind, logits, and what stands between."""
