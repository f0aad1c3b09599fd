"""Commands that run a network on the user's files, and what they show."""
