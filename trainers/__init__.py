"""Lightning modules, data, attacks, evidence and reports around the library `gmm_torch`."""

from trainers.classifiers import configuration  # noqa: F401 - what every configuration needs to be composed
