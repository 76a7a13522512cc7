"""Reports: a ranked table for the terminal, one self-contained HTML page, a figure."""

from spex_jax.report.html import save_html, to_html
from spex_jax.report.plots import plot
from spex_jax.report.text_section import to_text

__all__ = ["plot", "save_html", "to_html", "to_text"]
