"""Machine that measures: devices, fingerprint, hardware monitor."""
