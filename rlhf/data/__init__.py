"""Strict readers, prompt formats, splits and collation."""
