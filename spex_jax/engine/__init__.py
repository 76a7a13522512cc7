"""Evaluates value functions at masks: batches on devices, calls on the host, progress."""
