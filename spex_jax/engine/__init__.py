"""How masks reach a value function: batches on devices, calls on the host, progress."""
