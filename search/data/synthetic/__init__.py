"""Generated street scenes with exact labels."""
