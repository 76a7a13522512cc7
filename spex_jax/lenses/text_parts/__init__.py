"""The parts of the text lens: units, prompts, removal, ablated texts."""
