"""Weighted drafts, diagnostics of them, and the rules that pick one answer from them. Needs numpy only."""
