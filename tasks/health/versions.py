"""Python and library versions against what is safe and what works together. Nothing is imported: metadata only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from tasks.foundation.values import Value
from tasks.health.check import Check, judged

FindVersion = Callable[[str], str | None]
"""Name of a distribution -> its installed version, or None."""

_INSTALL = "Run: pip install -c constraints.txt -e ."


class Requirement(Value):
    """A version range and the reason for it."""

    name: str
    versions: str
    reason: str


REQUIREMENTS = (
    Requirement(name="torch", versions=">=2.10", reason="CVE-2026-24747: memory corruption in weights_only loading"),
    Requirement(name="transformers", versions=">=5.3", reason="CVE-2026-4372: a model's config.json could run code"),
    Requirement(
        name="mlflow", versions=">=3.11", reason="CVE-2026-2614, CVE-2026-4137: file reads, open temporary folders"
    ),
    Requirement(name="prefect", versions=">=3.6.20", reason="CVE-2026-7723, CVE-2026-3514: ways around authentication"),
    Requirement(name="fastapi", versions="<0.151", reason="with newer ones no Prefect flow runs"),
)


def installed(name: str) -> str | None:
    """The version that the distribution's metadata states."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python_check(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    """3.11 and later."""
    text = ".".join(map(str, version))
    return judged("python", version >= (3, 11), text, "Install Python 3.11 or later")


def library_checks(find: FindVersion = installed) -> list[Check]:
    """One finding per requirement."""
    return [_library(requirement, find(requirement.name)) for requirement in REQUIREMENTS]


def _library(requirement: Requirement, version: str | None) -> Check:
    name = requirement.name
    if version is None:
        return Check(name=name, ok=False, detail="not installed", fix=_INSTALL)
    try:
        fits = SpecifierSet(requirement.versions).contains(Version(version), prereleases=True)
    except InvalidVersion:
        fits = False
    if fits:
        return Check(name=name, ok=True, detail=version)
    detail = f"{version}, needed is {requirement.versions} ({requirement.reason})"
    return Check(name=name, ok=False, detail=detail, fix=_INSTALL)


def kernels_check(find: FindVersion = installed) -> Check:
    """The `kernels` package lets a model's configuration name code to download; without it that way is closed."""
    version = find("kernels")
    detail = "absent, as it should be" if version is None else f"{version} is installed: a config.json could fetch code"
    return judged("kernels", version is None, detail, "Run: pip uninstall kernels")


def platform_checks(find: FindVersion = installed, platform: str = sys.platform) -> list[Check]:
    """Libraries that exist for Linux only, and what is missing without them."""
    uses = {"bitsandbytes": "qlora and 8-bit optimisers", "deepspeed": "ZeRO"}
    return [_optional(name, use, find(name), platform) for name, use in uses.items()]


def _optional(name: str, use: str, version: str | None, platform: str) -> Check:
    if version is not None:
        return Check(name=name, ok=True, detail=version)
    if platform != "linux":
        return Check(name=name, ok=True, detail=f"not made for {platform}: no {use} here")
    return Check(name=name, ok=False, detail=f"not installed: no {use}", fix=_INSTALL)
