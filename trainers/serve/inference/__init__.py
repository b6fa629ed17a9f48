"""The Open Inference Protocol, version 2, over HTTP, with binary tensor data."""
