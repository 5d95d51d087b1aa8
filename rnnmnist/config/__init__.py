"""Configuration: every setting, its checks, files and command-line overrides."""
