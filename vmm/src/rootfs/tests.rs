//! Sources of every kind, good and bad.
