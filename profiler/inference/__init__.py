"""Inference with exported networks: images, folders and videos to masks and overlays."""
