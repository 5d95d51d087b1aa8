"""Configuration: settings, checks, configuration files and custom functions."""
