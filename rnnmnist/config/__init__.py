"""Configuration: the settings, their checks, files and command-line overrides."""
