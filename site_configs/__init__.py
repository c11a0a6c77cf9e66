"""Site files: a YAML file per site, or kind of site, and the schema that checks them.

`yamlfile` reads YAML into typed structs and names file and line of what is wrong; `schema` says
what a site file may hold; `parsed_cache` keeps what was read, so that most starts of processes
need no `yamlfile`; `templates` are the files shipped here, which ``pilot init`` copies.
"""

from __future__ import annotations

from pilot.site_configs.schema import (
    PoolConfig,
    SiteConfig,
    load_site_file,
    pool_type,
    site_file_schema,
)
from pilot.site_configs.templates import template_text, templates
from pilot.site_configs.yaml_text import SiteFileError

__all__ = [
    "PoolConfig",
    "SiteConfig",
    "SiteFileError",
    "load_site_file",
    "pool_type",
    "site_file_schema",
    "template_text",
    "templates",
]
