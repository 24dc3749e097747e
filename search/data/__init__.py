"""Datasets on disk (Cityscapes, CamVid) and generated street scenes in the same layouts.

Only `datasets`, and `predictions` through it, need torch.
"""
