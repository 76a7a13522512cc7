"""What is read off a spectrum: how far it is true, and which subsets of the units it favours."""
