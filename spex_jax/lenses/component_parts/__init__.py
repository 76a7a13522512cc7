"""What the components lens is made of: units, prompts, ablated forward passes."""
