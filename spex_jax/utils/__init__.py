"""What has nothing to do with spectra: files, threads, seeds, settings of JAX."""
