"""The stages from a value function to an `Explanation`: plan, evaluate, fit."""
