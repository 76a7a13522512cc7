"""The parts of the components lens: units, prompts, ablated forward passes."""
