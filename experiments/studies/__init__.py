"""The case studies of `case_studies.py`, one module each: TITLE, the flags that it TAKES, and run(setting, account)."""
