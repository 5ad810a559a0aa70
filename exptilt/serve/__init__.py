"""Aligned answers behind an OpenAI-compatible endpoint: one more caller of `exptilt.stream`, over HTTP."""
