"""Users and passwords of teachers' servers: from the configuration or the environment to the ranks.

They are passed in the environment of the ranks, which other users cannot read, and never in a file or an
argument. Imports no torch.
"""

from __future__ import annotations

import json
from os import environ

from distillctl.config.schema import Config, TeacherConfig, teacher_section
from distillctl.errors import ConfigError
from distillctl.errors.redact import MASK, PLACEHOLDER

LOGIN = "DISTILLCTL_TEACHER_LOGIN"
"""Environment variable with the `USER:PASSWORD` of addresses whose login is masked."""
_LOGINS = "DISTILLCTL_TEACHER_LOGINS"
"""Environment variable of a rank, with the logins of each teacher by name, as JSON."""
API_KEY = "DISTILLCTL_TEACHER_API_KEY"
"""Environment variable with the API key of the servers. It is sent to them and never written to disk."""


def found_logins(name: str, teacher: TeacherConfig) -> list[str | None]:
    """The login of each of a teacher's addresses; None for an address without one.

    Raises ConfigError when a login is masked and the environment does not have it.
    """
    found = []
    for url, login in zip(teacher.url or [], teacher.logins, strict=True):
        if login is None and f"://{MASK}@" in url:
            login = environ.get(LOGIN, "").strip()
            if not login:
                host = url.replace(MASK, PLACEHOLDER)
                raise ConfigError(
                    f"{teacher_section(name)}.url: the user and password of {url} are not stored with a run",
                    f"give them again, {teacher_section(name)}.url={host}, or set the environment variable "
                    f"{LOGIN}={PLACEHOLDER}",
                )
        found.append(login)
    return found


def unsent_keys(config: Config) -> list[str]:
    """Addresses that are not sent the API key of the environment, because they have a user and password."""
    if not environ.get(API_KEY, "").strip():
        return []
    return [
        f"{teacher_section(name)}.url {url}"
        for name, teacher in config.all_teachers.items()
        for url, login in zip(teacher.url or [], found_logins(name, teacher), strict=True)
        if login is not None
    ]


def logins_environment(config: Config) -> dict[str, str]:
    """The variables that a rank's environment needs for `logins_of`."""
    logins = {name: found_logins(name, teacher) for name, teacher in config.all_teachers.items()}
    return {_LOGINS: json.dumps(logins)} if any(map(any, logins.values())) else {}


def logins_of(name: str) -> list[str | None]:
    """In a rank: the logins of a teacher's addresses; an empty list when no address has one."""
    found: list[str | None] = json.loads(environ.get(_LOGINS, "{}")).get(name, [])
    return found
