"""Datasets without a description: folders of images and labels."""
