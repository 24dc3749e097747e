"""Coding of label files: values or colours, their meaning, and what the files say about it."""
