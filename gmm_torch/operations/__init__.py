"""What can be done with a mixture: marginals, conditionals, divergences, missing values, choice of a model."""
