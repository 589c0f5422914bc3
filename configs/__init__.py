"""Presets as YAML and the typed models they load into."""
