"""Records of evaluated inputs, and the files that hold them."""
