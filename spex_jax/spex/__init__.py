"""SPEX: coded ablations and their decoder."""
