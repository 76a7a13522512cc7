"""The sections of docs/measurements.md, each with the results from which it is made."""

from measured.comparison import comparison
from measured.explanations import SECTIONS as EXPLANATIONS
from measured.knowledge import SECTIONS as KNOWLEDGE
from measured.section import Section, page
from measured.systems import SECTIONS as SYSTEMS

__all__ = ["SECTIONS", "Section", "comparison", "page"]

SECTIONS: tuple[Section, ...] = (*EXPLANATIONS, *KNOWLEDGE, *SYSTEMS)
