"""Training on few labels and many images without one; one file = one method."""
