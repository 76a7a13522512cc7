"""Analyses of a spectrum: how far it is true, and which subsets of the units it favours."""
