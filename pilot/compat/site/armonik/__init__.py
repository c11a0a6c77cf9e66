"""The few names of ArmoniK's package that programs for PymoniK import.

Where the real package is installed its modules go before these.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__path__ = [*__path__[1:], __path__[0]]
