"""Examples: where they come from, how rows tell them, and the problems we write ourselves."""
