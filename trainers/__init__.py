"""Lightning modules, data, attacks, evidence and reports around the library `gmm_torch`."""
