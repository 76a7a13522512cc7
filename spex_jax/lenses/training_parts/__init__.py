"""The parts of the training data lens: groups of examples and their retraining."""
