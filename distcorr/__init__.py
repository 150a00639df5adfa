"""Does a feature know which point here corresponds to which point there?"""

__version__ = "0.1.0"
