"""The studies of `case_studies.py`, one module each, with TITLE, the flags that it TAKES, and run(setting, account)."""
