"""The configuration: its schema, and how presets, files and overrides are combined."""
