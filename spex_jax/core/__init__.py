"""Masks, spectra and interactions: the mathematics that all methods and reports share."""
