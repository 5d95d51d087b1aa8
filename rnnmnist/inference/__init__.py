"""Reads, preprocesses and classifies digit images."""
