"""Job files of one job, for tests."""

import json
import tomllib
from typing import Any

import jsonschema
import pytest

from pushtrain.core.errors import ConfigError
from pushtrain.core.jobs.jobfile import parse
from pushtrain.core.jobs.schema import json_schema


def job(text: str, *, head: str = "") -> str:
    """A file with one job that has `text` below its command."""
    command = "" if "command =" in text else 'command = "python train.py"\n'
    return f"{head}[job.train]\n{command}{text}\n"


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value


def valid(text: str) -> bool:
    document: Any = json.loads(json.dumps(tomllib.loads(text), default=str))
    return bool(jsonschema.Draft7Validator(json_schema()).is_valid(document))
