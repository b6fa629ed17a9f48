"""Features of named layers of any classifier, and its logits, under test-time augmentations."""
