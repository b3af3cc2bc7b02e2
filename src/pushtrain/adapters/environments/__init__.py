"""Ways to build the environment that a job's command runs in.

`registry` names them in the order in which `auto` asks them; the first whose `plan()` is not None is used.
"""

from typing import Final

registry: Final[dict[str, str]] = {
    "uv": "pushtrain.adapters.environments.uv:UvProject",
    "requirements": "pushtrain.adapters.environments.requirements:RequirementsFile",
    "conda": "pushtrain.adapters.environments.conda:CondaFile",
    "script": "pushtrain.adapters.environments.script:InlineScript",
    "named": "pushtrain.adapters.environments.ready:Named",
    "system": "pushtrain.adapters.environments.ready:System",
}
"""`EnvironmentKind` → `module:Class`; each class is made with one `site.Site`."""
