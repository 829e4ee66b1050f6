//! The gate in scripts, and against a naive model under random verbs.
