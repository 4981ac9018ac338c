"""The frozen base, its adapters and heads, the four roles, generation."""
