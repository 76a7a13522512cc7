"""What the training data lens is made of: groups of examples and their retraining."""
