"""The proxy "linear": sparse regressions over all terms up to a degree."""
