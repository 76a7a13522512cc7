"""Helpers that know nothing of spectra: files, threads, seeds, settings of JAX."""
