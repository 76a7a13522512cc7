"""Masks, spectra and interactions: the mathematics that every method and report shares."""
