"""The table file: schema, reading, recording, upgrades."""
