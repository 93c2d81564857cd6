"""Section `package` of params.yaml."""

from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class PackageSettings:
    """What the artifact is called and what its model card says besides the run's figures."""

    name: str = knob(meaning="the artifact's name")
    data: str | None = knob(None, meaning="what it was trained on")
    data_licence: str | None = knob(None, meaning="under which terms")
    intended_use: str | None = knob(None, meaning="what it is for")
    limits: str | None = knob(None, meaning="what it is not for")
