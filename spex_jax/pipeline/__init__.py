"""From a value function to an `Explanation`: plan, evaluate, fit."""
