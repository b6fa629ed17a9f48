"""Lightning modules: ways of training a classifier, fitting a mixture, predicting."""
