"""Copies of the API's collections that no error empties."""
