"""Pure tensor functions: torch in, torch out, nothing else imported."""
