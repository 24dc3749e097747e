"""The machine: devices, fingerprint, hardware monitor."""
