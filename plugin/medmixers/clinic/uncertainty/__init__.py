"""How sure a prediction is: calibrated probabilities, disagreement of models, and images unlike the training data."""
