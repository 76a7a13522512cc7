"""What the text lens is made of: units, prompts, removal, ablated texts."""
