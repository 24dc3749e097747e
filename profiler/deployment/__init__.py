"""Deployment: export, quantization, parity with torch, inference on images and videos."""
