"""The winner as a registered model. The public face of the package.

Light: `tasks.registry.register` needs torch and MLflow, and is imported by its own name.
"""

from tasks.registry.lineage import code_state
from tasks.registry.settings import RegistrySettings
from tasks.registry.values import CodeState, Example, RegisteredVersion, RegisterRequest

__all__ = ["CodeState", "Example", "RegisterRequest", "RegisteredVersion", "RegistrySettings", "code_state"]
