"""Recorded logits of the glyph classifier, and the generator of its weights."""
