"""YAML files → the desired state; every error with file, line and column."""

from lbd.config.errors import ConfigError, ConfigErrors
from lbd.config.files import default_paths
from lbd.config.loader import load

__all__ = ["ConfigError", "ConfigErrors", "default_paths", "load"]
