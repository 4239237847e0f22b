"""Loss surfaces by name: real tasks, exact models, and the user's own."""

from hessjax.landscapes.base import Landscape, critical_point, describe, get, names, options, register

__all__ = ["Landscape", "critical_point", "describe", "get", "names", "options", "register"]
