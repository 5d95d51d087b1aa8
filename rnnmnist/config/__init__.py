"""Configuration: settings, checks, configuration files and user-defined functions."""
