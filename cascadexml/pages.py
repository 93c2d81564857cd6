"""HTML pages from the templates that lie beside the modules which fill them; every value is escaped."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(package: str, template: str, **values: Any) -> str:
    """Fill a template.

    Args:
        package: such as "cascadexml.quality"; the template lies in its folder `templates`.
        template: the file's name.
        values: what the template names; one that it names and nobody gives is an error.
    """
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
