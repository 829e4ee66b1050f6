//! Heads, on every prefix and split.
