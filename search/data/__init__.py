"""Datasets on disk, described by YAML, and generated street scenes in the layouts of Cityscapes and CamVid.

Only `datasets`, and `predictions` through it, need torch.
"""
