"""From what a user asks to a plan that is complete."""
