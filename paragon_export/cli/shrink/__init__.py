"""Commands that make a network smaller, and what they show."""
