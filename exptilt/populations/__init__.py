"""Weighted drafts, what can be told of them, and how one answer is picked from them. Needs numpy only."""
