"""Data sets on disk (Cityscapes, CamVid) and generated street scenes in the same layouts.

`labels`, `scenes` and `writers` do without torch; `datasets` needs it.
"""
